"""A training step of the tiny base in float32 and in bfloat16, with two implementations of attention: `python benchmarks/training_precision.py`.

Random weights, one thread. All variants are measured by turns in every round, and what is compared is CPU time of this process, so that other work
on the machine disturbs the ratios as little as it can.
"""

import argparse
import platform
import statistics
import time
from pathlib import Path

import torch
import transformers
from torch.nn import functional
from transformers import LlavaForConditionalGeneration

from insightv.world.base.tiny_vlm import IMAGE, build_model, build_processor

ROWS, TOKENS, PICTURE, SPOKEN = 32, 116, 16, 48
"""Rows of a step, tokens of a row, those of them that are a picture's, and those that have loss."""
VARIANTS = {
    "float32, SDPA": (torch.float32, "sdpa"),
    "float32, eager": (torch.float32, "eager"),
    "bfloat16, SDPA": (torch.bfloat16, "sdpa"),
    "bfloat16, eager": (torch.bfloat16, "eager"),
}


def make_batch(model: LlavaForConditionalGeneration, image_token: int) -> dict[str, torch.Tensor]:
    """Random tokens behind the placeholders of a random picture."""
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(10, model.config.text_config.vocab_size, (ROWS, TOKENS), generator=generator)
    ids[ids == image_token] = 10
    ids[:, 1 : 1 + PICTURE] = image_token
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "pixel_values": torch.rand(ROWS, 3, 64, 64, generator=generator) * 2 - 1}


def step(model: LlavaForConditionalGeneration, optimizer: torch.optim.Optimizer, batch: dict[str, torch.Tensor], dtype: torch.dtype) -> float:
    """One optimizer step with the vision tower frozen, as the base's language phases and the agents' trainings take it; seconds of CPU time."""
    began = time.process_time()
    with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
        hidden = model.model(**batch).last_hidden_state
        logits = model.lm_head(hidden[:, -SPOKEN - 1 : -1])
    loss = functional.cross_entropy(logits.float().flatten(0, 1), batch["input_ids"][:, -SPOKEN:].flatten())
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    optimizer.step()
    return time.process_time() - began


def main() -> None:
    """Measure and print a table in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=20, help="measured steps of every variant")
    rounds = parser.parse_args().rounds
    torch.set_num_threads(1)
    processor = build_processor()
    model = build_model(processor, seed=0)
    model.model.vision_tower.requires_grad_(False)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-5, fused=True)
    batch = make_batch(model, processor.tokenizer.convert_tokens_to_ids(IMAGE))

    seconds: dict[str, list[float]] = {name: [] for name in VARIANTS}
    for turn in range(rounds + 2):
        for name, (dtype, attention) in VARIANTS.items():
            model.set_attn_implementation(attention)
            taken = step(model, optimizer, batch, dtype)
            if turn > 1:  # the first two warm up
                seconds[name].append(taken)

    cpu = next((line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")), platform.processor())
    print(f"torch {torch.__version__}, transformers {transformers.__version__}, {cpu}, one thread, {rounds} rounds\n")
    print("| variant | ms of CPU time, median | quartiles | times as fast as float32, SDPA |\n| --- | --- | --- | --- |")
    plain = seconds["float32, SDPA"]
    for name, own in seconds.items():
        low, middle, high = statistics.quantiles(own, n=4)
        ratio = statistics.median(a / b for a, b in zip(plain, own, strict=True))
        print(f"| {name} | {1000 * middle:.0f} | {1000 * low:.0f} to {1000 * high:.0f} | {ratio:.2f} |")


if __name__ == "__main__":
    main()
