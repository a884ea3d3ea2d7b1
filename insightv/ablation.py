"""The paper's ablation as one command: cells of rows, settings and seeds, each a run that takes from the others what they have in common."""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from insightv import verbs
from insightv.config import CellConfig, Config, UserError
from insightv.config_file import changed
from insightv.loop import row_of


@dataclass(frozen=True, slots=True)
class Part:
    """One run of an ablation."""

    cells: tuple[str, ...]
    seed: int
    config: Config


def ablate(config: Config, cells: Sequence[str], seeds: Sequence[int], *, retry_failed: bool, say: Callable[[str], None]) -> list[Part]:
    """Make the runs of the named cells and seeds, or of all; returns all parts of the ablation, whose results `results.ablation` reads.

    Repeating the command goes on where it was stopped. A stage that another run of the same seed has made from the same things is taken from there.
    """
    chosen = _chosen(config, cells)
    _check(config)
    known = {seed for cell in config.ablate.cells.values() for seed in cell.seeds}
    if strange := [seed for seed in seeds if seed not in known]:
        raise UserError(f"no cell has the seed {strange[0]}; there are {', '.join(map(str, sorted(known)))}")
    wanted = [part for part in parts(config, chosen) if not seeds or part.seed in seeds]
    if not wanted:
        raise UserError(f"none of the cells {', '.join(cells)} has a seed among {', '.join(map(str, seeds))}")
    for part in wanted:
        say(f"{part.config.run}: {', '.join(part.config.systems.rows)}")
        verbs.run(part.config, retry_failed=retry_failed)
    return parts(config, config.ablate.cells)


def parts(config: Config, cells: Mapping[str, CellConfig]) -> list[Part]:
    """The runs of some cells, seed by seed, those with the config's own settings first: the others take from them."""
    grouped: dict[tuple[int, str], list[str]] = {}
    for name, cell in cells.items():
        for seed in cell.seeds:
            grouped.setdefault((seed, json.dumps(cell.set, sort_keys=True)), []).append(name)
    ordered = sorted(grouped.items(), key=lambda item: (item[0][0], item[0][1] != "{}"))
    return [Part(tuple(names), seed, _part(config, cells, names, seed)) for (seed, _), names in ordered]


def _part(config: Config, cells: Mapping[str, CellConfig], names: Sequence[str], seed: int) -> Config:
    settings = dict(cells[names[0]].set)
    folder = _folder(config, settings, seed)
    rows = list(dict.fromkeys(row for name in names for row in cells[name].rows))
    for row in rows:
        row_of(row, config, f"ablate.cells.{names[0]}.rows")
    # Rows that were made before, for cells that are not asked for now, stay in the table.
    there = [path.parent.name.removeprefix("evaluate-") for path in sorted(folder.glob("evaluate-*/manifest.json"))]
    rows += [row for row in there if row not in rows]
    primary = [list(pair) for pair in config.systems.primary if set(pair) <= set(rows)]
    baseline = config.systems.baseline if config.systems.baseline in rows else rows[0]
    beside = dict.fromkeys(str(_folder(config, cell.set, seed)) for cell in config.ablate.cells.values() if seed in cell.seeds)
    reuse = [*map(str, config.reuse), *(other for other in beside if other != str(folder))]
    own: dict[str, Any] = {"run": str(folder), "seed": seed, "journal": str(config.journal or config.run / "journal"), "reuse": reuse}
    return changed(config, settings | own | {"systems.rows": rows, "systems.primary": primary, "systems.baseline": baseline})


def _check(config: Config) -> None:
    """That every comparison has its rows: one that was written down beforehand must not drop out by a slip of the pen."""
    cells = config.ablate.cells
    for name, cell in cells.items():
        if not re.fullmatch(r"[A-Za-z0-9_.+-]*[A-Za-z0-9_+-]", name):
            raise UserError(f"ablate.cells: {name!r} cannot name a cell: use letters, digits and _ . + -")
        if not cell.rows or not cell.seeds:
            raise UserError(f"ablate.cells.{name} needs rows and seeds")
    here = {row for cell in cells.values() if not cell.set for row in cell.rows}
    compared = [("systems.primary", row) for pair in config.systems.primary for row in pair]
    compared += [("ablate.contrasts", row) for before, after, _ in config.ablate.contrasts for row in (before, after)]
    if strange := [(setting, row) for setting, row in compared if row not in here]:
        raise UserError(f"{strange[0][0]}: {strange[0][1]} is in no cell with the config's own settings, whose rows are {', '.join(sorted(here)) or 'none'}")
    if "test" not in config.systems.splits:
        raise UserError("systems.splits: an ablation is read on the test split; name it there")


def _folder(config: Config, settings: Mapping[str, Any], seed: int) -> Path:
    """Where the run of these settings lies, by the name of the first cell that has them: one name whichever cells are asked for."""
    variant = next(name for name, cell in config.ablate.cells.items() if cell.set == settings)
    return config.run / (f"{variant}-seed-{seed}" if settings else f"seed-{seed}")


def _chosen(config: Config, names: Sequence[str]) -> Mapping[str, CellConfig]:
    cells = config.ablate.cells
    if not cells:
        raise UserError("the config has no ablate.cells; configs/ablation.yaml has the paper's")
    if unknown := [name for name in names if name not in cells]:
        raise UserError(f"no cell {unknown[0]!r}; there are {', '.join(cells)}")
    return {name: cells[name] for name in names or cells}
