"""The server over real HTTP on loopback, its agents played by a stub."""

import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import PIL.Image
import pytest

from benchmarks.agents_stub import Agents
from benchmarks.served import Served, serve_pair
from insightv.images import encode_png
from insightv.records import Chain, Problem, Score, Step, Verdict
from insightv.store import ImageStore, write_records

SECRET = "a key that no route gives away"


@pytest.fixture
def served() -> Iterator[Callable[..., Served]]:
    """Start a server: `served(agents, key="", **serve_settings)`."""
    with ExitStack() as stack:

        def start(agents: Agents | None = None, key: str = "", allowed: Callable[[str], bool] | None = None, **settings: Any) -> Served:
            return stack.enter_context(serve_pair(agents or Agents(), key, allowed, **settings))

        yield start


@pytest.fixture(scope="session")
def png() -> bytes:
    """A small picture."""
    return encode_png(PIL.Image.new("RGB", (64, 48), "red"))


def make_run(folder: Path) -> Path:
    """Sixty chains of twenty problems, with pictures, two pairs that share their chosen chain, and a file beside them that is nobody's business."""
    for name in ("problems", "generate", "assess", "dpo1", "round1-data"):
        (folder / name).mkdir(parents=True)
        (folder / name / "manifest.json").write_text('{"hash": "x", "outputs": {}}')
    (folder / "config.yaml").write_text("{}")
    (folder / "secret.png").write_bytes(encode_png(PIL.Image.new("RGB", (8, 8))) + SECRET.encode())
    store = ImageStore(folder / "images")
    store.add((folder / "secret.png").read_bytes())
    pictures = [store.add(encode_png(PIL.Image.new("RGB", (8, 8), (at, 0, 0)))) for at in range(20)]
    problems = [Problem(id=f"{at:032x}", question=f"Which? {at}", images=(pictures[at],), answers=("red",)) for at in range(20)]
    steps = (Step(summary="Look", reasoning="<b>red</b>"),)
    chains = [
        Chain(id=f"{at:016x}{n:016x}", problem_id=f"{at:032x}", model="m", mode="single", index=n, steps=steps, answer="red")
        for at in range(20)
        for n in range(3)
    ]
    write_records(folder / "problems" / "train.jsonl", problems)
    write_records(folder / "generate" / "chains.jsonl", chains)
    write_records(
        folder / "assess" / "verdicts.jsonl", [Verdict(chain_id=one.id, problem_id=one.problem_id, correct=one.index != 1, by="rule") for one in chains]
    )
    write_records(
        folder / "assess" / "scores.jsonl", [Score(chain_id=one.id, problem_id=one.problem_id, value=50 + one.index) for one in chains if one.index != 1]
    )
    (folder / "dpo1" / "log.jsonl").write_text('{"step": 1, "loss": 0.7, "margin": 0.1, "host": "inside"}\n{"step": 2}\n')
    (folder / "round1-data" / "rejections.jsonl").write_text("")
    chosen, *rejected = chains[:3]
    pairs = [{"chosen": {"chain_id": chosen.id, "score": {"value": 50}}, "rejected": {"chain_id": one.id, "score": {"value": 52}}} for one in rejected]
    rows = [{"id": f"p{at}", "part": "score", "problem_id": chosen.problem_id, "chains": pair} for at, pair in enumerate(pairs)]
    (folder / "round1-data" / "manifest.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder
