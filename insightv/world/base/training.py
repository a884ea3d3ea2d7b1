"""Train the tiny base in the order of the real recipe (compare LLaVA, arXiv 2304.08485, section 4.2).

First the vision tower learns to see (a dense classifier over patches) and the language model learns from text; then, with the tower frozen,
projector and language model learn captions, grounding and direct answers, beside more text, and last to find what is named.
"""

import os
from pathlib import Path
from typing import Any

import torch

from insightv.training.run import processor_has_bfloat16
from insightv.world.base.language import train_language
from insightv.world.base.loop import Report
from insightv.world.base.tiny_vlm import build_model, build_processor
from insightv.world.base.vision import train_vision

STEPS = {"vision": 600, "text": 800, "language": 4400, "search": 800}
"""Updates of the four phases."""


def train_base(out: Path, scratch: Path, seed: int, steps: dict[str, int], report: Report) -> dict[str, float]:
    """Train the base from nothing and save it in transformers' layout, bfloat16, under 10 MB; goes on from the last checkpoint in `scratch`.

    Returns the share of turns that it answers exactly, by skill.
    """
    steps = STEPS | steps
    scratch.mkdir(parents=True, exist_ok=True)
    # Whatever else the run does waits for the base.
    torch.set_num_threads(os.cpu_count() or 1)
    processor = build_processor()
    model = build_model(processor, seed)
    if processor_has_bfloat16():
        # The backward pass of the fused attention is slow in bfloat16 on a processor: a step of lessons takes 1.3 times as long (docs/benchmarks.md).
        model.set_attn_implementation("eager")
    train_vision(model, steps=steps["vision"], seed=seed, report=report, checkpoint=scratch / "vision")
    rest: dict[str, Any] = {"seed": seed, "report": report}
    train_language(model, processor, steps=steps["text"], text=1.0, learning_rate=0.02, checkpoint=scratch / "text", **rest)
    # Slower: at the rate at which much is learnt from nothing, what the text taught is shaken off.
    train_language(model, processor, steps=steps["language"], text=0.2, learning_rate=0.007, checkpoint=scratch / "language", **rest)
    known = train_language(model, processor, steps=steps["search"], text=0.2, searches=0.6, learning_rate=0.006, checkpoint=scratch / "search", **rest)
    model.bfloat16().save_pretrained(out)
    processor.save_pretrained(out)
    return known
