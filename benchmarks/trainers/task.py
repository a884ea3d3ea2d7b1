"""What a trainer of the benchmark is given and gives back, how trainers take turns, and the data that all of them train on."""

import io
import json
import os
import random
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from transformers import TrainerCallback


@dataclass(frozen=True)
class Task:
    """One measurement; it reaches a trainer's process as JSON."""

    model: str
    data: str
    kind: str
    """sft, dpo, reference (only the scores of DPO's reference) or group."""
    batch: int = 2
    """Rows, pairs or groups per optimizer step."""
    turns: int = 12
    """Steps, those to warm up included."""

    def to_json(self) -> str:
        """The same as text."""
        return json.dumps(asdict(self))


class Turns:
    """This process's turns among trainers that run one at a time, a step each, and what its steps cost.

    The trainers differ by less than this machine does from one minute to the next; so they must not run one after the other.
    """

    def __init__(self, to: Connection) -> None:
        self._to, self._begun = to, 0.0
        self._spent: dict[str, float] = {}

    def wait(self) -> None:
        """Until it is this process's turn; the clock then begins. From the first on, all trainers share one core."""
        self._to.recv()
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
        self._spent, self._begun = {}, time.process_time()

    def spent(self, part: str) -> None:
        """CPU seconds since the last call, or the begin of the turn, belong to `part`."""
        now = time.process_time()
        self._spent[part], self._begun = now - self._begun, now

    def end(self, part: str | None = None) -> None:
        """Tell what the turn cost, its last seconds under the name `part`, and wait for the next."""
        if part:
            self.spent(part)
        self._to.send(self._spent)
        self.wait()

    def close(self, known: dict[str, float]) -> None:
        """All steps are taken; `known` is what else is to be told."""
        self._to.send(known)


class Turning(TrainerCallback):
    """A step a turn, for loops of transformers."""

    def __init__(self, turns: Turns) -> None:
        self._turns = turns

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        self._turns.wait()

    def on_step_end(self, *_: Any, **__: Any) -> None:
        self._turns.end("step")


def given() -> tuple[Task, Turns]:
    """The task on the command line, and the turns."""
    return Task(**json.loads(sys.argv[1])), Turns(Connection(int(sys.argv[2])))


def flops(run: Callable[[], Any]) -> int:
    """Floating-point operations of matrix products and attention while `run` runs."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count

    # torch counts the attention kernels of GPUs, not the CPU's.
    ops = torch.ops.aten

    def forward(query: Any, key: Any, value: Any, *_: Any, **__: Any) -> int:
        return int(sdpa_flop_count(query, key, value))

    def backward(grad: Any, query: Any, key: Any, value: Any, *_: Any, **__: Any) -> int:
        return int(sdpa_backward_flop_count(grad, query, key, value))

    mapping = {ops._scaled_dot_product_flash_attention_for_cpu: forward, ops._scaled_dot_product_flash_attention_for_cpu_backward: backward}
    with FlopCounterMode(display=False, custom_mapping=mapping) as counter:
        run()
    return int(counter.get_total_flops())


def write_data(folder: Path, tokens: Callable[[str], int], kind: str, count: int, prompt: int, answer: int, answers: int = 2) -> Path:
    """Write `count` rows whose prompts, images included, have `prompt` tokens, and their answers `answer` give or take a fifth.

    `tokens` says how many a prompt with this question has. Letters are a token each.
    """
    import pyarrow as pa
    import pyarrow.parquet

    draw = random.Random(0)
    spare = prompt - tokens("")

    def letters(length: int) -> str:
        return "".join(draw.choices("QWZXKVJ", k=length))

    def said(role: str, text: str, *parts: dict[str, Any]) -> list[dict[str, Any]]:
        return [{"role": role, "content": [*parts, {"type": "text", "text": text}]}]

    rows = []
    for number in range(count):
        lengths = [max(1, answer + round(answer * draw.uniform(-0.2, 0.2)) - 1) for _ in range(answers)]
        texts = [said("assistant", letters(length)) for length in lengths]
        named = {"completion": texts[0]} if kind == "sft" else {"chosen": texts[0], "rejected": texts[1]} if kind == "dpo" else {"completions": texts}
        prompts = said("user", letters(spare), {"type": "image", "text": None})
        rows.append({"id": f"row{number:04}", "images": [{"bytes": _picture(draw), "path": None}], "prompt": prompts, **named})
    folder.mkdir(parents=True, exist_ok=True)
    pa.parquet.write_table(pa.Table.from_pylist(rows), folder / "train-00000.parquet")
    return folder


def _picture(draw: random.Random) -> bytes:
    from PIL import Image

    stream = io.BytesIO()
    Image.frombytes("RGB", (64, 64), draw.randbytes(64 * 64 * 3)).save(stream, "PNG")
    return stream.getvalue()
