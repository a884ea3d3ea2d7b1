"""Shared rows against separate ones on a GPU, an 8B LLaVA-NeXT with random weights in bfloat16: `python -m benchmarks.gpu`, under eight minutes.

Prompts of 2,300 tokens (an image of 672 x 336, three tiles, in them) and answers of 400, forward and backward pass with checkpointing, vision tower
frozen. Attention in each form that the machine can; `--tiny` runs the same on a CPU, to see that it runs.
"""

import argparse
import json
import time
from collections.abc import Sequence
from typing import Any

import torch
from transformers import AutoModelForImageTextToText, CLIPVisionConfig, LlamaConfig, LlavaNextConfig

from insightv.models.vlm import freeze
from insightv.training import attention
from insightv.training.cost import Row as Sizes
from insightv.training.cost import Shape, shape_of_model, work
from insightv.training.packing import Answer, Row, answer_logprobs, collate, moved

IMAGE = 31
"""Token of an image's place."""


def main() -> None:
    """Print a line of JSON per measurement."""
    given = _arguments()
    device = torch.device("cpu" if given.tiny else "cuda")
    prompt, answer = (230, 40) if given.tiny else (2300, 400)
    model = _model(given.tiny, device)
    shape = shape_of_model(model)
    rate = None if given.tiny else matmul_rate(device)
    print(json.dumps({"device": "cpu" if given.tiny else torch.cuda.get_device_name(), "parameters": shape.total, "matmul_tflops": rate and rate / 1e12}))
    for form in given.forms or (["sdpa", attention.SHARED] if given.tiny else ["flex_attention", attention.SHARED, "sdpa"]):
        model.set_attn_implementation({"text_config": form})
        for answers in (1, 2, 8):
            row = _row(model, prompt, answer, answers)
            forms = {"shared": [[row]], "separate": [[Row(row.row_id, row.prompt_ids, row.pixels, [one])] for one in row.answers]}
            found = {name: measure(model, batches, given.repeats, device) for name, batches in forms.items()}
            for name, (seconds, memory) in found.items():
                print(json.dumps({"attention": form, "answers": answers, "form": name} | _told(shape, row, name, seconds, memory, rate)), flush=True)
            print(json.dumps({"attention": form, "answers": answers, "times as fast": round(found["separate"][0] / found["shared"][0], 2)}), flush=True)


def measure(model: Any, batches: Sequence[Sequence[Row]], repeats: int, device: torch.device) -> tuple[float, float]:
    """Median seconds of a forward and backward pass over the batches, and the peak of memory in GB, after two passes that are not measured."""
    times = []
    for repeat in range(2 + repeats):
        if device.type == "cuda":
            torch.cuda.synchronize()
            torch.cuda.reset_peak_memory_stats()
        began = time.perf_counter()
        for rows in batches:
            answer_logprobs(model, moved(collate(rows, 0), device)).sums.mean().backward()
        if device.type == "cuda":
            torch.cuda.synchronize()
        if repeat >= 2:
            times.append(time.perf_counter() - began)
        model.zero_grad(set_to_none=True)
    peak = torch.cuda.max_memory_allocated() / 1e9 if device.type == "cuda" else 0.0
    return sorted(times)[len(times) // 2], peak


def matmul_rate(device: torch.device, size: int = 8192) -> float:
    """Operations per second of a large product in bfloat16."""
    a, b = (torch.randn(size, size, dtype=torch.bfloat16, device=device) for _ in range(2))
    for _ in range(3):
        a @ b
    torch.cuda.synchronize()
    began = time.perf_counter()
    for _ in range(20):
        a @ b
    torch.cuda.synchronize()
    return 20 * 2 * size**3 / (time.perf_counter() - began)


def _told(shape: Shape, row: Row, form: str, seconds: float, memory: float, rate: float | None) -> dict[str, Any]:
    lengths = [len(answer.ids) for answer in row.answers]
    patches = row.pixels["pixel_values"].shape[1] * shape.tile
    groups = [lengths] if form == "shared" else [[length] for length in lengths]
    done = sum(sum(work(shape, Sizes(len(row.prompt_ids), group, patches), checkpointing=True)) for group in groups)
    tokens = len(row.prompt_ids) * len(groups) + sum(lengths)
    return {
        "seconds": round(seconds, 4),
        "tokens_per_second": round(tokens / seconds),
        "share_of_matmul_rate": round(done / seconds / rate, 3) if rate else None,
        "peak_gb": round(memory, 1),
    }


def _row(model: Any, prompt: int, answer: int, answers: int) -> Row:
    draw = torch.Generator().manual_seed(0)

    def tokens(count: int) -> list[int]:
        return torch.randint(32, 1000, (count,), generator=draw).tolist()

    side = model.config.vision_config.image_size
    per_line = side // model.config.vision_config.patch_size
    # The whole, and two tiles side by side, each line with its end.
    image = [IMAGE] * (per_line**2 + per_line * (2 * per_line + 1))
    pixels = {
        "pixel_values": torch.randn(1, 3, 3, side, side, generator=draw, dtype=torch.float32).to(model.dtype),
        "image_sizes": torch.tensor([[side, 2 * side]]),
    }
    return Row("row", [1, *image, *tokens(prompt - 1 - len(image))], pixels, [Answer(tokens(answer), [1] * answer) for _ in range(answers)])


def config(tiny: bool = False) -> LlavaNextConfig:
    """LLaVA-NeXT on Llama 3 8B, or a tiny one."""
    text: dict[str, Any] = {"vocab_size": 1024, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2}
    vision: dict[str, Any] = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 48, "patch_size": 8}
    if not tiny:
        text = {"vocab_size": 128_320, "hidden_size": 4096, "intermediate_size": 14_336, "num_hidden_layers": 32, "num_attention_heads": 32}
        text |= {"num_key_value_heads": 8, "max_position_embeddings": 8192}
        vision = {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24, "num_attention_heads": 16, "image_size": 336, "patch_size": 14}
    grid = [[vision["image_size"], 2 * vision["image_size"]]]
    return LlavaNextConfig(text_config=LlamaConfig(**text), vision_config=CLIPVisionConfig(**vision), image_token_index=IMAGE, image_grid_pinpoints=grid)


def _model(tiny: bool, device: torch.device) -> Any:
    torch.manual_seed(0)
    with device:
        model = AutoModelForImageTextToText.from_config(config(tiny), dtype=torch.float32 if tiny else torch.bfloat16)
    freeze(model)
    model.train()
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    return model


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tiny", action="store_true", help="a tiny model on the CPU")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--forms", nargs="*", help="attention: flex_attention, shared_prefix, sdpa")
    return parser.parse_args()


if __name__ == "__main__":
    main()
