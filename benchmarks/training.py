"""Training beside other trainers, in CPU time: `python -m benchmarks.training`.

Every trainer is a process with one thread, all of them on one core, and they take turns step by step; every repeat starts fresh ones. Ratios are taken
within a repeat. See docs/benchmarks.md.
"""

import argparse
import datetime
import io
import math
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from multiprocessing import Pipe
from pathlib import Path
from typing import NamedTuple

from PIL import Image as Picture
from scipy.stats import t

from benchmarks import models
from benchmarks.engines.report import processor, write
from benchmarks.trainers.task import Task, write_data
from insightv.datasets.trainers import export
from insightv.models.chat import Image, Message, Text
from insightv.models.vlm import encode, load

SIZES: dict[str, dict[str, int]] = {
    "tiny": {},
    "small": {
        "hidden_size": 256,
        "intermediate_size": 704,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "num_key_value_heads": 4,
        "vocab_size": 1024,
    },
}
"""Of the language models. Tiny: 0.2 million weights, where a trainer's own work shows; small: 3.5 million, most of the time in products, the head 7% of
them, as in an 8B model."""
PROMPT, ANSWER = 290, 50
WARMUP = 3
"""Turns of each trainer that are not measured."""
CURVE = [(ratio, answers) for ratio in (1, 2, 4, 6, 10) for answers in (1, 2, 4, 8, 16)]
BEGIN, END = "<!-- training:begin -->", "<!-- training:end -->"
ROOT = Path(__file__).resolve().parents[1]

Found = dict[str, float]


class Line(NamedTuple):
    """A claim: how many times as much one way takes as ours, and what the counted operations say it should."""

    name: str
    times: list[float]
    predicted: float

    def told(self) -> str:
        """A row of the table."""
        low, middle = bound(self.times), statistics.median(self.times)
        cells = [f"{middle:.2f}", f"{low:.2f}", f"{min(self.times):.2f} to {max(self.times):.2f}", f"{self.predicted:.2f}", f"{middle / self.predicted:.2f}"]
        return f"| {self.name} | {' | '.join(cells)} |"


def main() -> None:
    """Measure, print the section, and write what was asked for."""
    given = _arguments()
    with tempfile.TemporaryDirectory() as folder:
        peers = {"trl": sys.executable} | ({"llama_factory": given.llama_factory} if given.llama_factory else {})
        lines = [line for size in given.sizes for kind in given.models for line in compared(kind, size, Path(folder), given.repeats, given.steps, peers)]
        curve = [(*point, *curved(*point, Path(folder), given.steps)) for point in CURVE] if given.curve else []
    text = section(lines, curve, given.plot)
    print(text)
    if curve and given.plot:
        draw(curve, given.plot)
    if given.write:
        write(given.write, text, BEGIN, END)


def compared(kind: str, size: str, folder: Path, repeats: int, steps: int, peers: Mapping[str, str]) -> Iterator[Line]:
    """The claims about one class of model; `peers` are trainers to compare with and the interpreters that run them."""
    called, steps = f"{size} {kind}", steps * (4 if size == "tiny" else 1)
    model = models.save(kind, folder / called, **SIZES[size])
    tasks = {name: _task(model, folder / f"{called}-{name}", name, steps) for name in ("dpo", "sft", "group")}
    tasks["reference"] = replace(tasks["dpo"], kind="reference")
    if "llama_factory" in peers:
        for name in ("dpo", "sft"):
            export(Path(tasks[name].data), Path(f"{tasks[name].data}-llama-factory"), "llama-factory")
    ours = ("ours", sys.executable)

    def taken(rivals: Mapping[str, str], *names: str) -> list[Found]:
        running = {f"ours {name}": (*ours, tasks[name]) for name in names} | {peer: (peer, python, tasks[names[0]]) for peer, python in rivals.items()}
        return [by_turns(running) for _ in range(repeats)]

    dpo, sft, groups = taken(peers, "dpo", "reference"), taken(peers, "sft"), taken({}, "group")
    for peer, title in {"trl": "TRL", "llama_factory": "LLaMA-Factory"}.items():
        if peer in peers:
            theirs = [f"{peer} step", f"{peer} prepare"]
            yield _line(f"{called}: DPO, {title}", dpo, theirs, ["ours dpo step", "ours dpo prepare", "ours reference reference"])
            yield _line(f"{called}: DPO with stored log-probabilities of the reference, {title}", dpo, theirs, ["ours dpo step", "ours dpo prepare"])
            yield _line(f"{called}: SFT, {title}", sft, theirs, ["ours sft step", "ours sft prepare"])
    yield _line(f"{called}: group of 8, separate rows", groups, ["ours group separate"], ["ours group shared"])


def _line(name: str, repeats: Sequence[Found], theirs: Sequence[str], ours: Sequence[str]) -> Line:
    def ratio(found: Found, suffix: str = "") -> float:
        return sum(found.get(part + suffix, 0) for part in theirs) / sum(found.get(part + suffix, 0) for part in ours)

    line = Line(name, [ratio(found) for found in repeats], ratio(repeats[0], " flops"))
    print(line.told(), flush=True)
    return line


def curved(ratio: int, answers: int, folder: Path, steps: int) -> tuple[float, float]:
    """Separate over shared, measured and predicted, for a prompt so many times as long as each of so many answers."""
    model = folder / "curve"
    if not model.exists():
        models.save("llava_next", model, **SIZES["small"])
    prompt = max(60, PROMPT if ratio >= 4 else 50 * ratio)
    task = _task(model, folder / f"curve-{ratio}-{answers}", "group", steps // 2, prompt, max(2, prompt // ratio), answers, 1)
    found = by_turns({"ours": ("ours", sys.executable, task)})
    measured, predicted = found["ours separate"] / found["ours shared"], found["ours separate flops"] / found["ours shared flops"]
    print(f"curve {ratio}:1, {answers} answers: {measured:.2f}, predicted {predicted:.2f}", flush=True)
    return measured, predicted


def by_turns(running: Mapping[str, tuple[str, str, Task]]) -> Found:
    """CPU seconds a row, pair or group, and counted operations, of trainers (module, interpreter, task) that take turns: by name and part."""
    with ExitStack() as stack:
        begun = {name: stack.enter_context(_started(*what)) for name, what in running.items()}
        spent: Counter[str] = Counter()
        [turns] = {task.turns for *_, task in running.values()}
        for number in range(turns):
            for name, turn in begun.items():
                for part, seconds in turn().items():
                    spent[f"{name} {part}"] += seconds / (turns - WARMUP) / running[name][2].batch if number >= WARMUP else 0.0
        for name, turn in begun.items():
            spent.update({f"{name} {part}": value for part, value in turn().items()})
    return dict(spent)


@contextmanager
def _started(module: str, python: str, task: Task) -> Iterator[Callable[[], Found]]:
    """A trainer's process; the call that is yielded lets it take its turn and returns what it tells."""
    here, there = Pipe()
    command = [python, "-m", f"benchmarks.trainers.{module}", task.to_json(), str(there.fileno())]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
    with tempfile.TemporaryFile("w+") as errors, here:
        with there:
            process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL, stderr=errors, pass_fds=[there.fileno()])

        def turn() -> Found:
            try:
                here.send(None)
                found: Found = here.recv()
            except (EOFError, OSError):
                ended = process.wait()
                errors.seek(0)
                raise RuntimeError(f"{module} ended with {ended}:\n{errors.read()[-3000:]}") from None
            return found

        try:
            yield turn
        finally:
            process.kill()
            process.wait()


def bound(ratios: Sequence[float]) -> float:
    """Lower end of the 90% interval of the mean of log-ratios, back on the ratios' scale."""
    if len(ratios) < 2:
        return math.nan
    logs = [math.log(ratio) for ratio in ratios]
    half = t.ppf(0.95, len(logs) - 1) * statistics.stdev(logs) / math.sqrt(len(logs))
    return math.exp(statistics.fmean(logs) - half)


def _task(model: Path, data: Path, kind: str, steps: int, prompt: int = PROMPT, answer: int = ANSWER, answers: int = 8, batch: int = 2) -> Task:
    vlm = load(model)
    stream = io.BytesIO()
    Picture.new("RGB", (64, 64)).save(stream, "PNG")

    def tokens(question: str) -> int:
        return len(encode(vlm, [Message("user", (Text(question), Image("it")))], lambda _: stream.getvalue()).input_ids)

    task = Task(str(model), str(data), kind, batch, WARMUP + steps)
    write_data(data, tokens, kind, task.turns * batch, prompt, answer, answers)
    return task


def section(lines: Sequence[Line], curve: Sequence[tuple[int, int, float, float]], plot: Path | None) -> str:
    """All that the page says of the measurement."""
    import torch
    import transformers
    import trl

    versions = f"torch {torch.__version__}, transformers {transformers.__version__}, TRL {trl.__version__}, Python {platform.python_version()}"
    parts = [
        f"{datetime.date.today()}, {versions}, {processor()}, one thread, load average at the end {os.getloadavg()[0]:.1f}\n",
        "| what takes how many times ours | times, median | lower 90% bound | range | by counted operations | share of that |",
        "| --- | --- | --- | --- | --- | --- |",
        "\n".join(line.told() for line in lines) + "\n",
    ]
    if curve:
        counts = sorted({answers for _, answers, *_ in curve})
        rows = []
        for ratio in sorted({ratio for ratio, *_ in curve}):
            cells = [f"{measured:.2f} ({predicted:.2f})" for at, _, measured, predicted in curve if at == ratio]
            rows.append(f"| {ratio}:1 | " + " | ".join(cells) + " |")
        head = "| prompt : answer | " + " | ".join(f"N = {count}" for count in counts) + " |\n| --- |" + " --- |" * len(counts)
        parts.append(f"Separate rows over shared ones, measured (by counted operations), small LLaVA-NeXT:\n\n{head}\n" + "\n".join(rows) + "\n")
        if plot:
            parts.append(f"![How many times as long separate rows take]({plot.name})\n")
    return "\n".join(parts)


def draw(curve: Sequence[tuple[int, int, float, float]], path: Path) -> None:
    """The curve as a picture: a line per number of answers, measured with marks, predicted dashed."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(6.4, 4))
    for answers in sorted({answers for _, answers, *_ in curve}):
        points = sorted((ratio, measured, predicted) for ratio, count, measured, predicted in curve if count == answers)
        ratios, measured, predicted = zip(*points, strict=True)
        [line] = axes.plot(ratios, measured, marker="o", label=f"N = {answers}")
        axes.plot(ratios, predicted, linestyle="--", color=line.get_color(), alpha=0.6)
    axes.set_xlabel("tokens of the prompt over those of an answer")
    axes.set_ylabel("CPU time of separate rows over shared ones")
    axes.set_title("Sharing the prompt; dashed: by counted operations", fontsize=10)
    axes.legend(frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, bbox_inches="tight", metadata={"Date": None} if path.suffix == ".svg" else None)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="*", choices=list(models.KINDS), default=["llava_next", "qwen2_5_vl"])
    parser.add_argument("--sizes", nargs="*", choices=list(SIZES), default=list(SIZES))
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--steps", type=int, default=8, help="measured in each run, after three that are not; four times as many of a tiny model")
    parser.add_argument("--llama-factory", metavar="PYTHON", help="interpreter of an environment with LLaMA-Factory, to compare with it too")
    parser.add_argument("--curve", action="store_true", help="also measure the ratios 1:1 to 10:1 with 1 to 16 answers")
    parser.add_argument("--plot", type=Path, help="SVG or PNG file of the curve")
    parser.add_argument("--write", type=Path, metavar="PAGE", help=f"page whose part between {BEGIN} and {END} is replaced")
    return parser.parse_args()


if __name__ == "__main__":
    main()
