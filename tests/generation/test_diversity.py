"""Figures of diversity and stability, counted by hand."""

import pytest

from insightv.generation.diversity import diversity
from insightv.records import Chain, ChainStatus, Step


def chain(problem: str, index: int, text: str, answer: str, status: ChainStatus = "ok", defects: tuple[str, ...] = ()) -> Chain:
    steps = (Step(summary="s", reasoning=text),) if text else ()
    return Chain(id=f"{problem}{index}", problem_id=problem, model="m", mode="single", index=index, steps=steps, answer=answer, status=status, defects=defects)


def test_figures_are_those_counted_by_hand() -> None:
    figures = diversity(
        [
            chain("p", 0, "one two three four", "A"),
            chain("p", 1, "one two three four", "a."),
            chain("q", 0, "one two three four", "A"),
            chain("q", 1, "five six seven eight", "B", "defect", ("truncated",)),
            chain("r", 0, "one two three four", "A", "defect", ("repetition", "retried")),
            chain("r", 1, "", "", "failed", ("request_failed",)),
        ]
    )
    assert (figures["chains"], figures["problems"]) == (6, 3)
    assert figures["failed"] == pytest.approx(1 / 6)
    assert figures["well_formed"] == pytest.approx(3 / 5)
    assert figures["truncated"] == figures["repeating"] == figures["retried"] == pytest.approx(1 / 5)
    assert figures["distinct_answers"] == pytest.approx(1.5)
    assert figures["self_overlap"] == pytest.approx(0.5)
    assert (figures["steps"], figures["words"]) == (1, 5)


def test_nothing_gives_zeros() -> None:
    assert set(diversity([]).values()) == {0}
