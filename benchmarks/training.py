"""Training beside other trainers, in CPU time: `python -m benchmarks.training`.

Every run is a fresh process with one thread; trainers take turns within a repeat, and ratios are taken within it. See docs/benchmarks.md.
"""

import argparse
import datetime
import io
import json
import math
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from PIL import Image as Picture
from scipy.stats import t

from benchmarks import models
from benchmarks.engines.report import processor, write
from benchmarks.trainers.task import Task, write_data
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
        lines = [line for size in given.sizes for kind in given.models for line in compared(kind, size, Path(folder), given.repeats, given.steps)]
        curve = [(*point, *curved(*point, Path(folder), given.steps)) for point in CURVE] if given.curve else []
    text = section(lines, curve, given.plot)
    print(text)
    if curve and given.plot:
        draw(curve, given.plot)
    if given.write:
        write(given.write, text, BEGIN, END)


def compared(kind: str, size: str, folder: Path, repeats: int, steps: int) -> Iterator[Line]:
    """The claims about one class of model."""
    called, steps = f"{size} {kind}", steps * (8 if size == "tiny" else 1)
    model = models.save(kind, folder / called, **SIZES[size])
    tasks = {name: _task(model, folder / f"{called}-{name}", name, steps) for name in ("dpo", "sft", "group")}
    runs = [(trainer, name) for name in tasks for trainer in ("ours", "trl") if not (trainer == "trl" and name == "group")]
    found: dict[tuple[str, str], list[Found]] = {run: [] for run in runs}
    for repeat in range(repeats):
        for trainer, name in runs:
            found[trainer, name].append(run(trainer, tasks[name]))
            print(f"{repeat} {called} {name} {trainer}: {json.dumps(found[trainer, name][-1])}", flush=True)
    ours, theirs = found["ours", "dpo"], found["trl", "dpo"]
    flops = theirs[0]["step_flops"]
    yield Line(
        f"{called}: DPO, TRL",
        [b["step"] / (a["step"] + a["reference"] + a["prepare"]) for a, b in zip(ours, theirs, strict=True)],
        flops / (ours[0]["step_flops"] + ours[0]["reference_flops"]),
    )
    yield Line(
        f"{called}: DPO with stored log-probabilities of the reference, TRL",
        [b["step"] / (a["step"] + a["prepare"]) for a, b in zip(ours, theirs, strict=True)],
        flops / ours[0]["step_flops"],
    )
    groups = found["ours", "group"]
    yield Line(
        f"{called}: group of 8, separate rows", [one["separate"] / one["shared"] for one in groups], groups[0]["separate_flops"] / groups[0]["shared_flops"]
    )
    ours, theirs = found["ours", "sft"], found["trl", "sft"]
    yield Line(
        f"{called}: SFT, TRL",
        [b["step"] / (a["step"] + a["prepare"]) for a, b in zip(ours, theirs, strict=True)],
        theirs[0]["step_flops"] / ours[0]["step_flops"],
    )


def curved(ratio: int, answers: int, folder: Path, steps: int) -> tuple[float, float]:
    """Separate over shared, measured and predicted, for a prompt so many times as long as each of so many answers."""
    model = folder / "curve"
    if not model.exists():
        models.save("llava_next", model, **SIZES["small"])
    prompt = max(60, PROMPT if ratio >= 4 else 50 * ratio)
    found = run("ours", _task(model, folder / f"curve-{ratio}-{answers}", "group", max(2, steps // 3), prompt, max(2, prompt // ratio), answers, 1))
    measured, predicted = found["separate"] / found["shared"], found["separate_flops"] / found["shared_flops"]
    print(f"curve {ratio}:1, {answers} answers: {measured:.2f}, predicted {predicted:.2f}", flush=True)
    return measured, predicted


def run(trainer: str, task: Task) -> Found:
    """One measurement in a process of its own."""
    command = [sys.executable, "-m", f"benchmarks.trainers.{trainer}", task.to_json()]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
    ended = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    if ended.returncode:
        raise RuntimeError(f"{trainer} ended with {ended.returncode}:\n{ended.stderr[-3000:]}")
    found: Found = json.loads(ended.stdout.strip().splitlines()[-1])
    return found


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

    task = Task(str(model), str(data), kind, batch=batch, steps=steps)
    write_data(data, tokens, kind, (task.warmup + steps) * batch, prompt, answer, answers)
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
    parser.add_argument("--steps", type=int, default=8, help="measured in each run, after three that are not; eight times as many of a tiny model")
    parser.add_argument("--curve", action="store_true", help="also measure the ratios 1:1 to 10:1 with 1 to 16 answers")
    parser.add_argument("--plot", type=Path, help="SVG or PNG file of the curve")
    parser.add_argument("--write", type=Path, metavar="PAGE", help=f"page whose part between {BEGIN} and {END} is replaced")
    return parser.parse_args()


if __name__ == "__main__":
    main()
