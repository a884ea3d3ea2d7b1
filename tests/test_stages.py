"""Stages on small run folders made by hand."""

import asyncio
from pathlib import Path

import pytest

from insightv.config import AssessConfig, Config
from insightv.evaluation.run import chain_correctness
from insightv.generation import assess
from insightv.records import Chain, Problem, Score, Solution, Step
from insightv.results.faults import outcomes
from insightv.results.seeds import RIGHT, Seed
from insightv.stages.chains import measure_truth
from insightv.stages.context import Context
from insightv.store import Run, write_records
from insightv.world.questions import parse, reason
from insightv.world.scenes import Table, to_json

TABLE = Table((1, 2, 3, 4, 9, 0, 5, 5, 7, 7, 8, 6))


@pytest.fixture
def context(tmp_path: Path) -> Context:
    return Context(Config(run=tmp_path / "run"), Run(tmp_path / "run"), lambda _: None)


def told(answer: str) -> tuple[Problem, Chain]:
    """A problem of the tiny world and a chain whose steps are right, with this answer."""
    text = "What number is at b3?"
    question = parse(text)
    assert question is not None
    trace = reason(question, TABLE)
    meta = {"family": "entry", "group": "perception", "scene": to_json(TABLE)}
    problem = Problem(id="p", question=text, answers=(trace.answer,), answer_type="number", meta=meta)
    steps = tuple(Step(summary=title, reasoning=said) for title, said in trace.steps)
    chain = Chain(id="c", problem_id="p", model="m", mode="single", index=0, steps=steps, conclusion=trace.conclusion, answer=answer.format(trace.answer))
    return problem, chain


@pytest.mark.parametrize(("answer", "right"), [("{}", True), ("I see {} here", True), ("I see 99 here", False)])
def test_a_chains_answer_is_right_for_filter_truth_and_table_alike(context: Context, answer: str, right: bool) -> None:
    problem, chain = told(answer)
    verdict = asyncio.run(assess.verdict(problem, chain, None, AssessConfig(rules_only=True), 0))
    assert (verdict.correct, verdict.by) == (right, "rule")

    folder = context.run.folder
    write_records(folder / "problems" / "train.jsonl", [problem])
    write_records(folder / "generate" / "chains.jsonl", [chain])
    write_records(folder / "assess" / "verdicts.jsonl", [verdict])
    write_records(folder / "assess" / "scores.jsonl", list[Score]())
    truth = measure_truth(context, folder, "generate", "assess", "train")
    assert (truth["answers_right"], truth["chains_right"]) == (right, right)
    assert truth["precision"] == (1.0 if right else None)

    solution = Solution(problem_id="p", system="pair", answer="99", text="99", chain=chain, correct=False)
    assert chain_correctness([problem], [solution]) == {"p": right}
    [outcome] = outcomes([Seed(0, {"p": problem}, {"pair": [solution]}, {"pair": 1}, {"pair": {"p": RIGHT}})], "pair")
    assert outcome.corrected.n == (not right)
