"""Predictions scored and compared: what counts, what is owed, what a judge may find, and what a page shows of regressions."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest

from insightv import benchmarking, cli
from insightv.config import Config, UserError
from insightv.evaluation.suite import predictions
from insightv.evaluation.suite.predictions import Prediction
from insightv.evaluation.suite.score import Result
from insightv.records import Problem
from insightv.scoring import compared, scored
from tests.evaluation.benchmark_rows import TABLES, write_table
from tests.evaluation.suite.model_server import Body, ModelServer, Said, serving, text_of

CHAIN = "<thoughts>\n### Look\nIt is red.\n### Conclusion\nSo.\nAnswer: B\n</thoughts>"


@pytest.fixture
def server() -> Iterator[ModelServer]:
    with serving(ModelServer()) as running:
        yield running


def answered(folder: Path, server: ModelServer, rows: tuple[str, ...] = ("base",), names: tuple[str, ...] = ("ai2d",), **more: Any) -> Config:
    """A run whose rows have answered fixtures of these benchmarks at the server."""
    for name in names:
        write_table(folder / f"{name}.tsv", [TABLES[name](n) for n in range(5)])
    where = {"endpoint": {"url": server.url, "model": "m", "revision": "1", "retries": 0}}
    evaluate = {"rows": rows, "models": {name: where for name in ("base", "reasoner", "summarizer")}, "judge": where["endpoint"], **more}
    config = Config.model_validate({"run": folder / "run", "benchmarks": {name: folder / f"{name}.tsv" for name in names}, "evaluate": evaluate})
    benchmarking.answer(config, [], limit=None, shard=(1, 1), say=lambda _: None)
    return config


def scores(config: Config, profile: str = "official", **how: Any) -> dict[tuple[str, str], Result]:
    results, _ = scored(config.run, profile, [], **{"judged": False, "overrides": [], **how})
    return {(result.benchmark, result.row): result for result in results}


def truth(body: Body) -> str:
    """The right letter of AI2D's fixture, told by the number at the end of its question."""
    question = text_of(body).split("\nA. ")[0]
    return str(TABLES["ai2d"](int(question.split()[-1].strip("?")))["answer"])


def test_what_is_right_wrong_unread_cut_off_and_failed_is_counted_apart(tmp_path: Path, server: ModelServer) -> None:
    said = iter([Said(status=500), Said("<thoughts>\n### Look", finish="length"), Said("I cannot tell")])
    server.answer = lambda body: next(said, None) or Said(truth(body))
    result = scores(answered(tmp_path, server))["ai2d", "base"]
    assert (result.items, result.missing, result.failed, result.truncated, result.unparsed) == (5, 1, 1, 1, 2)
    assert result.total.score.value == pytest.approx(50.0) and result.total.score.n == 4
    kept = [orjson.loads(line) for line in (tmp_path / "run/benchmarks/ai2d/scores/official/base.jsonl").read_bytes().splitlines()]
    assert len(kept) == 5 and [one["value"] for one in kept].count(None) == 1


def test_scoring_is_offline_and_repeatable_under_every_profile(tmp_path: Path, server: ModelServer) -> None:
    names = tuple(TABLES)
    config = answered(tmp_path, server, names=names)
    asked = len(server.asked)
    for profile in ("official", "lmms-0.7.3", "vlmeval-e8e78f0"):
        results = scores(config, profile)
        assert set(results) == {(name, "base") for name in names}
        assert all(result.missing == 0 and result.total.score.n > 0 for result in results.values())
        page = (tmp_path / "run/benchmarks" / f"{profile}.md").read_bytes()
        assert scores(config, profile).keys() == results.keys()
        assert (tmp_path / "run/benchmarks" / f"{profile}.md").read_bytes() == page
        assert f"scored by {profile}".encode() in page and b"MME of 2800, OCRBench of 1000" in page
    assert len(server.asked) == asked


def test_a_judge_finds_answers_that_the_rule_then_marks_and_is_paid_once(tmp_path: Path, server: ModelServer) -> None:
    def answer(body: Body) -> Said:
        if body["messages"][0]["role"] == "system":
            case = orjson.loads(text_of(body))
            return Said(orjson.dumps({"answer": case["reply"].split()[-2]}).decode())
        return Said(f"I settle on option {truth(body)} finally and without the slightest doubt, whatever anybody says: {truth(body)} !")

    server.answer = answer
    config = answered(tmp_path, server)
    assert scores(config, "lmms-0.7.3")["ai2d", "base"].total.score.value == 0
    for _ in range(2):
        judged = scores(config, "lmms-0.7.3", judged=True)["ai2d", "base"]
        assert judged.total.score.value == 100 and judged.unparsed == 0
    assert len(server.asked) == 10
    assert "answers found by m" in (tmp_path / "run/benchmarks/lmms-0.7.3-judged.md").read_text()


def test_chains_that_help_and_hurt_are_counted(tmp_path: Path, server: ModelServer) -> None:
    def answer(body: Body) -> Said:
        if "Only provide the reasoning" in text_of(body):
            return Said(CHAIN)
        # Alone right at two of the letters, behind a chain at others.
        with_chain = "REASON PROCESS" in text_of(body)
        return Said("B" if with_chain else "A")

    server.answer = answer
    config = answered(tmp_path, server, rows=("reasoner", "summarizer", "pair"))
    golds = [TABLES["ai2d"](n)["answer"] for n in range(5)]
    scores(config)
    text = (tmp_path / "run/benchmarks/official.md").read_text()
    helped, hurt = golds.count("B"), golds.count("A")
    assert f"| pair against summarizer | ai2d | {helped} | {hurt} | {5 - helped - hurt} |" in text
    assert "| pair against reasoner | ai2d | 0 | 0 | 5 |" in text


def filled(run: Path, row: str, replies: list[str], name: str = "ai2d") -> None:
    """More items than a fixture has, as `generate` would have left them, of which half have the answer A and half B."""
    place = run / "benchmarks" / name
    problem = next(iter(predictions.items(run, name).values()))
    problems = [
        problem.model_copy(
            update={
                "id": f"{n:032d}",
                "meta": problem.meta | {"index": str(n), "cluster": str(n), "row": problem.meta["row"] | {"index": n, "answer": "AB"[n % 2]}},
                "answers": ("AB"[n % 2],),
            }
        )
        for n in range(len(replies))
    ]
    (place / "items" / "1-of-1.jsonl").write_bytes(b"\n".join(one.model_dump_json().encode() for one in problems))
    asking = predictions.asking_of(predictions.folder(run, name, "base")).model_copy(update={"row": row})
    predictions.save_asking(predictions.folder(run, name, row), asking)
    lines = [
        Prediction(
            benchmark=name,
            item=str(n),
            prompt=predictions.prompt_hash(one, asking.prompts),
            model=asking.model,
            row=row,
            seed=0,
            content=reply,
            reasoning=f"a chain of {row} about <b>{n}</b>",
        )
        for n, (one, reply) in enumerate(zip(problems, replies, strict=True))
    ]
    path = predictions.folder(run, name, row) / "1-of-1.jsonl"
    path.unlink(missing_ok=True)
    with predictions.adding(path) as file:
        for line in lines:
            file.add(line)


def call(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["insightv", *arguments])
    with pytest.raises(SystemExit) as end:
        cli.main()
    return int(end.value.code or 0)


def test_a_loss_beyond_chance_fails_the_command_and_lists_every_regression(
    tmp_path: Path, server: ModelServer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    config = answered(tmp_path, server)
    right = ["AB"[n % 2] for n in range(60)]
    wrong = ["C" if n < 12 else right[n] for n in range(60)]
    filled(config.run, "base", right)
    filled(config.run, "worse", wrong)
    filled(config.run, "alike", ["C", *right[1:]])
    run = str(config.run)
    assert call(monkeypatch, "evaluate", "compare", f"{run}:base", f"{run}:worse") == 1
    assert f"insightv: {run}:worse is worse on ai2d" in capsys.readouterr().err
    assert call(monkeypatch, "evaluate", "compare", f"{run}:base", f"{run}:alike") == 0
    assert call(monkeypatch, "evaluate", "compare", f"{run}:worse", f"{run}:base") == 0
    contrasts, page = compared(f"{run}:base", f"{run}:worse", "official", [], None)
    assert (contrasts[0].test, contrasts[0].verdict, len(contrasts[0].hurt), contrasts[0].helped) == ("exact McNemar", "worse", 12, ())
    assert contrasts[0].p == pytest.approx(2 * 0.5**12) and contrasts[0].difference.value == pytest.approx(-20.0)
    listed = [orjson.loads(line) for line in page.with_name("base-vs-worse-regressions.jsonl").read_bytes().splitlines()]
    assert len(listed) == 12 and listed[0]["worse"] == {"content": "C", "reasoning": "a chain of worse about <b>0</b>", "read": "C"}
    html = page.read_text()
    assert "worse against base" in html and "<b>0</b>" not in html and "\\u003cb>0\\u003c/b>" in html


def test_other_questions_under_the_same_index_are_not_held_against_each_other(tmp_path: Path, server: ModelServer) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    one, other = answered(tmp_path / "a", server), answered(tmp_path / "b", server)
    write_table(tmp_path / "b" / "ai2d.tsv", [TABLES["ai2d"](n) | ({"question": "Another one?"} if n < 2 else {}) for n in range(5)])
    benchmarking.answer(other, [], limit=None, shard=(1, 1), say=lambda _: None)
    contrasts, page = compared(str(one.run), str(other.run), "official", [], tmp_path / "page.html")
    assert (contrasts[0].n, contrasts[0].left_out) == (3, 2)
    assert page.read_text().count("<td>run:base</td>") == 0 and "a/run:base" in page.read_text() and "b/run:base" in page.read_text()


def test_fewer_samples_and_other_models_are_not_mixed_in(tmp_path: Path, server: ModelServer) -> None:
    config = answered(tmp_path, server, names=("ai2d", "mmstar"), samples=3)
    assert len(scores(config)["ai2d", "base"].verdicts) == 15
    fewer = config.model_copy(update={"evaluate": config.evaluate.model_copy(update={"samples": 1})})
    benchmarking.answer(fewer, [], limit=None, shard=(1, 1), say=lambda _: None)
    assert len(scores(config)["ai2d", "base"].verdicts) == 5
    benchmarking.answer(fewer.model_copy(update={"seed": 5}), ["ai2d"], limit=None, shard=(1, 1), say=lambda _: None)
    scores(config)
    assert "| other models or prompts by benchmark |" in (tmp_path / "run/benchmarks/official.md").read_text()


def test_what_has_no_answer_or_no_column_is_one_line(tmp_path: Path, server: ModelServer) -> None:
    config = answered(tmp_path, server)
    path = tmp_path / "run/benchmarks/ai2d/items/1-of-1.jsonl"
    problems = list(predictions.items(config.run, "ai2d").values())
    for broken, said in (
        (problems[0].model_copy(update={"answers": ("nan",)}), "has no accepted answer, as in test splits"),
        (without(problems[0], "answer"), "KeyError"),
    ):
        path.write_bytes(b"\n".join(one.model_dump_json().encode() for one in (broken, *problems[1:])))
        with pytest.raises(UserError, match=f"ai2d: item .*{said}"):
            scores(config)


def without(problem: Problem, column: str) -> Problem:
    row = {name: value for name, value in problem.meta["row"].items() if name != column}
    return problem.model_copy(update={"meta": problem.meta | {"row": row}})


def test_a_judge_that_failed_is_asked_again_and_told_of(tmp_path: Path, server: ModelServer) -> None:
    server.answer = lambda body: Said(status=400) if body["messages"][0]["role"] == "system" else Said("I am at a loss about all of this, truly")
    config = answered(tmp_path, server)
    scores(config, "lmms-0.7.3", judged=True)
    assert "which failed on 5 and is asked again" in (tmp_path / "run/benchmarks/lmms-0.7.3-judged.md").read_text()
    server.answer = lambda _: Said('{"answer": "A"}')
    judged = scores(config, "lmms-0.7.3", judged=True)["ai2d", "base"]
    assert judged.unparsed == 0 and all(one.by_judge for one in judged.verdicts)


def test_a_page_of_the_same_data_has_the_same_bytes(tmp_path: Path, server: ModelServer) -> None:
    config = answered(tmp_path, server, rows=("base", "summarizer"))
    sides = (f"{config.run}:base", f"{config.run}:summarizer")
    pages = [compared(*sides, "official", [], tmp_path / f"{n}.html")[1].read_bytes() for n in "aa"]
    assert pages[0] == pages[1]


def test_what_cannot_be_scored_or_compared_is_said_in_one_line(tmp_path: Path, server: ModelServer) -> None:
    config = answered(tmp_path, server, rows=("base", "summarizer"))
    run = str(config.run)
    with pytest.raises(UserError, match=r"holds no predictions; make some with `insightv evaluate generate`"):
        scored(tmp_path, "official", [], judged=False, overrides=[])
    with pytest.raises(UserError, match="has no predictions of mme; there are those of ai2d"):
        scored(config.run, "official", ["mme"], judged=False, overrides=[])
    with pytest.raises(UserError, match="no scoring profile 'mine'"):
        scored(config.run, "mine", [], judged=False, overrides=[])
    with pytest.raises(UserError, match=r"has predictions of base, summarizer; say which, as .*run:base"):
        compared(run, f"{run}:base", "official", [], None)
    with pytest.raises(UserError, match=r"has no predictions of 'pair', but of base, summarizer"):
        compared(f"{run}:pair", f"{run}:base", "official", [], None)
    with pytest.raises(UserError, match=r"there is no judge: say where it is, as by -o evaluate\.judge\.url="):
        scored(config.run, "official", [], judged=True, overrides=["evaluate.judge=null"])
