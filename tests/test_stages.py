"""Stages on small run folders made by hand."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from insightv.config import AssessConfig, Config, EndpointConfig, FilterConfig, GenerateConfig, ModelsConfig, TeacherDials, UserError
from insightv.evaluation.run import chain_correctness
from insightv.generation import assess
from insightv.records import Chain, Problem, Score, Solution, Step
from insightv.results.faults import outcomes
from insightv.results.seeds import RIGHT, Seed
from insightv.stages.chains import choose, generate, measure_truth
from insightv.stages.context import Context
from insightv.store import Run, read_records, write_records
from insightv.world.problems import make_split
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


def test_questions_that_a_direct_answer_gets_right_get_no_chains(tmp_path: Path, counting_teacher: Any) -> None:
    url, asked = counting_teacher(TeacherDials())
    endpoint = EndpointConfig(url=url)
    models = ModelsConfig(generator=endpoint, judge=endpoint, scorer=endpoint)
    config = Config(run=tmp_path / "run", models=models, filter=FilterConfig(hard_only=True, always=("ocr",)), generate=GenerateConfig(n=2))
    run = Run(tmp_path / "run")
    drawn = list(make_split(run.images, "train", 6, seed=0, difficulty=0.0))
    # This teacher's direct answers are right; two questions have another truth, and one comes from a source that is taken whole.
    changed = {1: {"answers": ("no such answer",), "options": (), "answer_type": "text"}, 4: {"answers": ("nor this",), "options": (), "answer_type": "text"}}
    problems = [problem.model_copy(update=changed.get(place, {}) | ({"source": "ocr"} if place == 2 else {})) for place, problem in enumerate(drawn)]
    stage = run.stage("problems", inputs={}, config={}, version=1)
    stage.commit({"train": write_records(stage.work / "train.jsonl", problems)})

    context = Context(config, run, lambda _: None)
    stage = run.stage("filter", inputs={}, config={}, version=1)
    told = choose(context, stage.work)
    assert told == {"chosen": 3, "hard": 2, "easy": 3, "not asked": 1, "failed": 0}
    chosen = list(read_records(stage.work / "chosen.jsonl", Problem))
    assert [problem.id for problem in chosen] == [problems[place].id for place in (1, 2, 4)]
    assert (stage.work / "rejections.jsonl").read_text().count("answered_directly") == 3

    stage.commit(told)
    assert generate(context, run.stage("generate", inputs={}, config={}, version=1).work)["problems"] == 3
    easy = config.model_copy(update={"filter": FilterConfig(hard_only=True)})
    write_records(run.folder / "problems" / "train.jsonl", [drawn[0]])
    before = asked.total()
    with pytest.raises(UserError, match="answers all 1 training problems directly"):
        choose(Context(easy, run, lambda _: None), tmp_path / "work")
    assert asked.total() == before, "the journal knows the answer"


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
