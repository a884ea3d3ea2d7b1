"""Training the base anew: the same bytes after a kill, and every skill told."""

from pathlib import Path
from typing import Any

import pytest

from insightv.world.base import language, loop, training


def test_training_goes_on_from_its_checkpoint_to_the_same_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "SAVE_EVERY", 8)
    monkeypatch.setattr(language, "HELD", 100)
    # Two threads wait for each other most of the time where two processors share a core, or another test runs.
    monkeypatch.setattr(training.os, "cpu_count", lambda: 1)
    save = loop.save_state
    reports: list[dict[str, Any]] = []

    def train(name: str) -> tuple[bytes, dict[str, float]]:
        folder = tmp_path / name
        known = training.train_base(folder / "model", folder / "scratch", 0, {"vision": 2, "text": 16, "language": 8, "search": 8}, reports.append)
        return (folder / "model" / "model.safetensors").read_bytes(), known

    def save_and_stop(path: Path, step: int, *rest: Any) -> None:
        save(path, step, *rest)
        if step == 8:
            raise InterruptedError

    whole, known = train("whole")
    assert {"find one", "search rows, total", "look up, sum", "relative", "row-sum", "write steps"} <= set(known)
    assert all(0 <= share <= 1 for share in known.values())
    assert set(known) <= set(reports[-1])

    monkeypatch.setattr(loop, "save_state", save_and_stop)
    with pytest.raises(InterruptedError):
        train("stopped")
    monkeypatch.setattr(loop, "save_state", save)
    assert train("stopped") == (whole, known)
