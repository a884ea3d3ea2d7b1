"""Sets read back, joined, and turned from pairs into rows of SFT."""

from pathlib import Path
from typing import Any

import pytest

from insightv.config import PreferenceDataConfig, PromptsConfig, ReasoningDataConfig
from insightv.datasets import built, export, preference, reasoning
from insightv.datasets.rows import Made, Row


def rows_of(made: list[Made]) -> list[Row]:
    return sorted((row for rows, _ in made for row in rows), key=lambda row: str(row["id"]))


@pytest.fixture
def sets(pool: Any, tmp_path: Path) -> tuple[Path, Path]:
    """Reasoning rows of three problems, and four pairs, of which the last problem's two have one winner."""
    for number in range(3):
        problem = pool.problem()
        pool.chain(problem, True, 90, text=f"<thoughts>good {number}</thoughts>")
        pool.chain(problem, False, text=f"<thoughts>bad {number}</thoughts>")
    pool.chain(problem, False, text="<thoughts>worse 2</thoughts>")
    sft = reasoning.build(pool.rated, ReasoningDataConfig(), PromptsConfig(), reasoning.reasoning_row, seed=0)
    pairs, _ = preference.build(pool.rated, PreferenceDataConfig(), PromptsConfig(), seed=0)
    for name, made in (("sft", sft), ("pairs", pairs)):
        export.save(made, pool.store, tmp_path / name, tmp_path / f"{name}-scratch")
    return tmp_path / "sft", tmp_path / "pairs"


def test_a_set_that_is_read_back_and_written_again_has_the_same_bytes(sets: tuple[Path, Path], pool: Any, tmp_path: Path) -> None:
    for folder in sets:
        again = tmp_path / f"{folder.name}-again"
        export.save(built.joined(folder, folder), pool.store, again, tmp_path / f"{folder.name}-sorting")
        for name in ("manifest.jsonl", "train-00000.parquet"):
            assert (again / name).read_bytes() == (folder / name).read_bytes()


def test_the_winners_of_pairs_are_taken_once_each_in_their_own_words(sets: tuple[Path, Path]) -> None:
    pairs = list(built.read(sets[1]))
    rows = rows_of(list(built.chosen(sets[1])))
    assert len(pairs) == 4 and len(rows) == 3
    texts = {row["completion"][0]["content"][0]["text"] for row in rows}
    assert texts == {f"<thoughts>good {number}</thoughts>" for number in range(3)} == {pair["chosen"][0]["content"][0]["text"] for pair in pairs}
    assert {row["trace"]["chain"]["chain_id"] for row in rows} == {pair["trace"]["chosen"]["chain_id"] for pair in pairs}
    assert all(row["prompt"] == pair["prompt"] and row["images"] == pair["images"] for row in rows for pair in pairs if row["problem_id"] == pair["problem_id"])
