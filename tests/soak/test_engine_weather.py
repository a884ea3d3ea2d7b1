"""The request engine against a stub server in bad weather, with poisoned rows, overloaded and down for a while. `make engine` runs it.

Each test prints what was measured. SOAK_DOWN are the seconds of the outage.
"""

import contextlib
import os
import sqlite3
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import orjson
import pytest

from benchmarks.engines.drive import Case, run
from benchmarks.engines.weather import Settings, poison

pytestmark = pytest.mark.slow

DOWN = float(os.environ.get("SOAK_DOWN", "60"))


def journalled(folder: Path) -> list[dict[str, Any]]:
    """Every row of every file, read by nothing of ours."""
    rows = []
    for path in (folder / "journal").glob("*.sqlite"):
        with contextlib.closing(sqlite3.connect(path)) as connection:
            rows += [orjson.loads(row) for (row,) in connection.execute("SELECT row FROM replies")]
    return rows


def told(found: dict[str, Any]) -> str:
    return f"{found['counts']}, by kind {found['kinds']}, {found['seconds']:.1f} s, ideal {found['ideal_seconds']:.1f} s"


def test_bad_weather_loses_nothing_doubles_nothing_and_costs_little(tmp_path: Path) -> None:
    settings = Settings(too_many=0.025, server_error=0.025, reset=0.01, malformed=0.03)
    # The last rows' backoffs cost some three seconds at the end, however long the run.
    case = Case(12_000, 1, 64)
    found = run("ours", case, settings, extra=("--folder", str(tmp_path)))
    print(f"\n{found['of_ideal']:.3f} of the ideal's rate, {found['rate']:.0f} requests/s: {told(found)}")
    rows = journalled(tmp_path)
    assert len(rows) == case.rows == found["done"] and found["paid_twice"] == 0
    assert all(row.get("error") or row["message"]["content"] for row in rows)
    assert found["of_ideal"] >= 0.9


def test_poison_costs_its_attempts_and_nobody_else_anything() -> None:
    settings, case = Settings(refused_rows=0.01, failing_rows=0.01), Case(2000, 1, 64)
    fates = Counter(poison(settings, row) for row in range(case.rows))
    found = run("ours", case, settings)
    print(f"\n{dict(fates)}; rows by their number of requests {found['attempts']}: {told(found)}")
    assert fates["400"] and fates["500"]
    assert found["counts"] == {"ok": fates["ok"], "failed": fates["400"] + fates["500"]}
    assert found["attempts"] == {1: fates["ok"] + fates["400"], 6: fates["500"]}


def test_an_overloaded_server_is_kept_busy() -> None:
    settings, case = Settings(capacity=48), Case(6000, 1, 128)
    found = run("ours", case, settings)
    goodput = found["kinds"]["ok"] / found["seconds"] / (case.rows / found["ideal_seconds"])
    print(f"\n{goodput:.3f} of the ideal goodput, {found['kinds'].get('capacity', 0)} refused: {told(found)}")
    assert found["counts"] == {"ok": case.rows} and found["paid_twice"] == 0 and goodput >= 0.88


def test_an_outage_costs_its_own_time() -> None:
    settings, case = replace(Settings(), down=((3.0, DOWN, "closed"),)), Case(3000, 1, 64)
    found = run("ours", case, settings)
    lost = found["seconds"] - found["ideal_seconds"]
    print(f"\nan outage of {DOWN:g} s cost {lost:.1f} s, {found['paid_twice']} asked for again: {told(found)}")
    assert found["counts"] == {"ok": case.rows} and found["paid_twice"] <= case.slots and lost <= DOWN + 5
