"""`insightv evaluate generate` over the stub: items of a benchmark's table, answered and written down, journal and predictions on disk."""

import argparse
import base64
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.engines import payload
from benchmarks.engines.measure import Meter, say
from insightv.benchmarking import answer
from insightv.config import Config
from insightv.evaluation.suite import predictions


def table(path: Path, rows: int) -> None:
    """MME in VLMEvalKit's layout; every row shows the first one's image."""
    picture = base64.b64encode(payload.image()).decode()
    lines = [f"{row}\t{picture if row == 0 else 0}\t{payload.question(row)}\tYes\tcount\t{row // 2}" for row in range(rows)]
    path.write_text("\n".join(["index\timage\tquestion\tanswer\tcategory\timage_path", *lines]) + "\n", encoding="utf-8")


def measured(arguments: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Counts and costs of the run."""
    table(folder / "mme.tsv", arguments.rows)
    endpoint = {"url": arguments.url, "model": payload.MODEL, "concurrency": arguments.slots}
    config = Config.model_validate(
        {
            "run": folder / "run",
            "benchmarks": {"mme": folder / "mme.tsv"},
            "evaluate": {"rows": ["base"], "models": {"base": {"endpoint": endpoint}}},
            "systems": {"answer": {"max_tokens": 1024, "temperature": 0.7, "top_p": 0.95}},
        }
    )
    with Meter() as meter:
        answer(config, [], limit=None, shard=(1, 1), say=lambda _: None)
    there = list(predictions.read(predictions.folder(config.run, "mme", "base")))
    counts = {status: sum(one.status == status for one in there) for status in ("ok", "failed")}
    return {"done": len({one.item for one in there}), "counts": counts, **meter.result}


def main() -> None:
    """One run in a folder that is kept only if it is named; the result is the last line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--url", required=True)
    parser.add_argument("--rows", type=int, required=True)
    parser.add_argument("--steps", type=int, default=1, choices=[1])
    parser.add_argument("--slots", type=int, default=64)
    parser.add_argument("--folder", type=Path)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        say(**measured(arguments, arguments.folder or Path(scratch)))


if __name__ == "__main__":
    main()
