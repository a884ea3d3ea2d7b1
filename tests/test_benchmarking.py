"""Benchmarks answered by real requests: every way of answering, every fault, and the death of the process in between."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest

from insightv.benchmarking import answer
from insightv.config import BudgetConfig, Config, UserError
from insightv.config_file import save_config
from insightv.evaluation.suite import predictions
from insightv.evaluation.suite.predictions import Prediction
from insightv.models.chat import Halted
from tests.evaluation.benchmark_rows import HUGGING_FACE, TABLES, write_parquet, write_table
from tests.evaluation.suite.model_server import Body, ModelServer, Said, serving, text_of

CHAIN = "<thoughts>\n### Look\nIt is a red disc.\n### Conclusion\nRed is C.\nAnswer: C\n</thoughts>"
ROWS = ("base", "base-reasoned", "reasoner", "summarizer", "pair")


@pytest.fixture
def server() -> Iterator[ModelServer]:
    with serving(ModelServer()) as running:
        yield running


def settings(folder: Path, server: ModelServer, *, rows: tuple[str, ...] = ("base",), names: tuple[str, ...] = ("mmstar",), **endpoint: Any) -> Config:
    """A config whose models all live at the server."""
    (folder / "data").mkdir(exist_ok=True)
    for name in names:
        write_table(folder / "data" / f"{name}.tsv", [TABLES[name](n) for n in range(5)])
    where = {"endpoint": {"url": server.url, "model": "m", "revision": "1", "retries": 1, **endpoint}}
    return Config.model_validate(
        {
            "run": folder / "run",
            "benchmarks": {name: folder / "data" / f"{name}.tsv" for name in names},
            "evaluate": {"rows": rows, "models": {name: where for name in ("base", "reasoner", "summarizer")}},
            "systems": {"reasoner": {"max_tokens": 100}, "answer": {"max_tokens": 16}},
        }
    )


def ask(config: Config, limit: int | None = None, shard: tuple[int, int] = (1, 1)) -> list[str]:
    said: list[str] = []
    answer(config, [], limit=limit, shard=shard, say=said.append)
    return said


def lines(config: Config, row: str = "base", name: str = "mmstar") -> list[Prediction]:
    return list(predictions.read(predictions.folder(config.run, name, row)))


def standing(config: Config, row: str = "base", name: str = "mmstar") -> dict[str, Prediction]:
    place = predictions.folder(config.run, name, row)
    found = predictions.standing(place, predictions.asking_of(place), predictions.items(config.run, name))
    return {item: prediction for (item, _), prediction in found.items()}


def by_part(body: Body) -> Said:
    text = text_of(body)
    if "REASON PROCESS" in text:
        return Said("The reasoning is right: C.")
    if "Only provide the reasoning" in text:
        return Said(CHAIN)
    return Said("I see red.\n**Answer: D**" if "step by step" in text else "B", reasoning="hm")


def test_every_system_answers_in_its_own_way(tmp_path: Path, server: ModelServer) -> None:
    server.answer = by_part
    config = settings(tmp_path, server, rows=ROWS)
    said = ask(config)
    assert said == ["mmstar: 5 items", *(f"{row}: 5 answered" for row in ROWS)]
    parts = {row: {(one.reasoning, one.content) for one in standing(config, row).values()} for row in ROWS}
    assert parts == {
        "base": {("hm", "B")},
        "base-reasoned": {("hm\nI see red.", "D")},
        "reasoner": {(CHAIN, "C")},
        "summarizer": {("hm", "B")},
        "pair": {(CHAIN, "The reasoning is right: C.")},
    }
    # The pair's chains are those that the reasoner alone was asked for: nothing is paid twice.
    assert len(server.asked) == 5 * 5
    assert {one.usage.completion for one in standing(config, "pair").values()} == {14}
    assert all(one.seconds > 0 for row in ROWS for one in standing(config, row).values())


def test_a_benchmark_is_asked_as_it_is_and_reasoning_gets_the_pairs_tokens(tmp_path: Path, server: ModelServer) -> None:
    ask(settings(tmp_path, server, rows=("base", "base-reasoned", "summarizer")))
    reasoned = next(body for body in server.asked if "step by step" in text_of(body))
    trained = next(body for body in server.asked if text_of(body).endswith("Answer the question directly."))
    direct = next(body for body in server.asked if text_of(trained).startswith(text_of(body)) and body != trained)
    assert text_of(direct).endswith("Answer with the option's letter from the given choices directly.") and direct["max_tokens"] == 16
    assert "step by step" in text_of(reasoned) and reasoned["max_tokens"] == 100 + 16
    assert text_of(trained) == f"{text_of(direct)}\nAnswer the question directly."


def test_faults_are_owed_and_asked_again(tmp_path: Path, server: ModelServer) -> None:
    faults = iter([Said(status=500)] * 4 + [Said(wait=1.0)] * 2)
    server.answer = lambda _: next(faults, Said("A"))
    config = settings(tmp_path, server, concurrency=1, timeout=0.3)
    said = "base: 2 answered, 3 failed, which the same command asks again; most often: gave up after 2 attempts: HTTP 500: overloaded"
    assert ask(config)[-1] == said
    failed = [one for one in standing(config).values() if one.status == "failed"]
    assert len(failed) == 3 and all(one.reason and not one.content for one in failed)
    assert ask(config)[-1] == "base: 3 answered, 2 were there already"
    found = standing(config)
    assert len(found) == 5 and {one.status for one in found.values()} == {"ok"} and len(lines(config)) == 8


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        (Said(""), ("", "", "stop")),
        (Said(None), ("", "", "stop")),
        (Said("<thoughts>\n### Look\nIt may be A, or B", finish="length"), ("<thoughts>\n### Look\nIt may be A, or B", "", "length")),
        (Said(f"{CHAIN}\nC"), (CHAIN, "C", "stop")),
        (Said(f"{CHAIN}\n<output>D</output>"), (CHAIN, "D", "stop")),
        (Said("<think>It is A", finish="length"), ("It is A", "", "length")),
        (Said("I look. Maybe C.\n</think>\n\nA"), ("I look. Maybe C.\n</think>", "A", "stop")),
        (Said("In <output> I see B"), ("", "In <output> I see B", "stop")),
    ],
)
def test_what_is_no_answer_is_not_taken_for_one(tmp_path: Path, server: ModelServer, said: Said, expected: tuple[str, str, str]) -> None:
    server.answer = lambda _: said
    config = settings(tmp_path, server)
    ask(config)
    assert {(one.reasoning, one.content, one.finish) for one in standing(config).values()} == {expected}


def test_chains_cut_at_sixteen_tokens_are_told_apart_from_cut_answers(tmp_path: Path, server: ModelServer) -> None:
    server.answer = lambda body: Said("<thoughts>\n### Look", finish="length") if "Only provide" in text_of(body) else Said("C")
    config = settings(tmp_path, server, rows=("reasoner", "pair"))
    ask(config)
    assert {(one.content, one.finish) for one in standing(config, "reasoner").values()} == {("", "length")}
    assert {(one.content, one.finish, one.chain_finish) for one in standing(config, "pair").values()} == {("C", "stop", "length")}


def test_a_torn_line_loses_one_answer_that_the_journal_still_has(tmp_path: Path, server: ModelServer) -> None:
    config = settings(tmp_path, server)
    ask(config)
    path = predictions.folder(config.run, "mmstar", "base") / "1-of-1.jsonl"
    path.write_bytes(path.read_bytes()[:-40])
    assert len(standing(config)) == 4
    assert ask(config)[-1] == "base: 1 answered, 4 were there already"
    assert len(standing(config)) == 5 and len(server.asked) == 5


def test_a_killed_process_loses_no_item_and_doubles_none(tmp_path: Path, server: ModelServer) -> None:
    server.answer = lambda _: Said("B", wait=0.05)
    config = settings(tmp_path, server, names=("mmstar", "mme", "ai2d", "docvqa"), concurrency=1)
    save_config(config, tmp_path / "c.yaml")
    command = [sys.executable, "-c", "from insightv.cli import main; main()", "evaluate", "generate", str(tmp_path / "c.yaml")]
    kills = 0
    while kills < 3:
        with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=os.environ) as process:
            seen = len(server.asked)
            while process.poll() is None and len(server.asked) < seen + 4:
                time.sleep(0.005)
            process.send_signal(signal.SIGKILL)
            kills += 1
    subprocess.run(command, check=True, capture_output=True)
    for name in config.benchmarks:
        there = [(one.item, one.sample) for one in lines(config, name=name)]
        assert len(there) == len(set(there)) == 5
    # Only what was in flight at a kill is paid again.
    assert len(server.asked) <= 20 + kills


def test_other_models_prompts_and_seeds_are_other_predictions(tmp_path: Path, server: ModelServer) -> None:
    config = settings(tmp_path, server)
    ask(config)
    for change in ({"revision": "2"}, {"extra": {"top_k": 5}}):
        where = {"base": {"endpoint": {"url": server.url, "model": "m", "revision": "1", **change}}}
        ask(Config.model_validate(config.model_dump() | {"evaluate": {"rows": ["base"], "models": where}}))
        assert len(standing(config)) == 5
    ask(Config.model_validate(config.model_dump() | {"seed": 7}))
    assert len(lines(config)) == len(server.asked) == 20 and len(standing(config)) == 5


def test_a_vote_is_answered_by_the_majority_and_a_failed_one_has_no_voice(tmp_path: Path, server: ModelServer) -> None:
    replies = [Said("<output>A</output>"), Said("<output>A</output>"), Said("<output>B</output>"), Said(status=400)]
    for last in (2, 3):
        turns = iter([*replies[:2], replies[last]] * 5)
        server.answer = lambda _, turns=turns: next(turns)  # type: ignore[misc]
        config = settings(tmp_path, server, rows=("single-fair-vote",), concurrency=1)
        where = {"single-fair": config.evaluate.models["base"].model_dump(exclude_unset=True)}
        own = {"run": tmp_path / f"run{last}", "evaluate": {"rows": ["single-fair-vote"], "models": where}}
        config = Config.model_validate(config.model_dump() | own)
        ask(config)
        found = standing(config, "single-fair-vote")
        assert len(found) == 5 and {(one.content, one.status) for one in found.values()} == {("A", "ok")}


def test_another_number_of_shards_asks_what_the_file_holds_now(tmp_path: Path, server: ModelServer) -> None:
    config = settings(tmp_path, server)
    ask(config, shard=(1, 2))
    ask(config, shard=(2, 2))
    write_table(tmp_path / "data" / "mmstar.tsv", [TABLES["mmstar"](n) | {"question": f"Another one? {n}"} for n in range(5)])
    assert ask(config)[-1] == "base: 5 answered"
    assert all("Another one?" in problem.question for problem in predictions.items(config.run, "mmstar").values())


def test_a_corrected_answer_is_no_other_question(tmp_path: Path, server: ModelServer) -> None:
    config = settings(tmp_path, server)
    ask(config)
    write_table(tmp_path / "data" / "mmstar.tsv", [TABLES["mmstar"](n) | {"answer": "D"} for n in range(5)])
    assert ask(config)[-1] == "base: 0 answered, 5 were there already" and len(server.asked) == 5


def test_shards_beside_each_other_do_not_get_in_each_others_way(tmp_path: Path, server: ModelServer) -> None:
    save_config(settings(tmp_path, server, rows=("base", "summarizer"), names=("mmstar", "mme", "ai2d", "docvqa", "chartqa")), tmp_path / "c.yaml")
    call = [sys.executable, "-c", "from insightv.cli import main; main()", "evaluate", "generate", str(tmp_path / "c.yaml"), "--shard"]
    processes = [subprocess.Popen([*call, f"{n}/4"], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) for n in range(1, 5)]
    assert [(process.communicate(timeout=120)[1], process.returncode) for process in processes] == [("", 0)] * 4
    assert len(server.asked) == 2 * 25


def test_samples_have_seeds_of_their_own(tmp_path: Path, server: ModelServer) -> None:
    config = settings(tmp_path, server)
    config = config.model_copy(update={"evaluate": config.evaluate.model_copy(update={"samples": 3})})
    assert ask(config)[-1] == "base: 15 answered"
    assert len({body["seed"] for body in server.asked}) == 15


def test_a_budget_holds_over_several_calls_and_nothing_is_lost_when_it_ends(tmp_path: Path, server: ModelServer) -> None:
    config = settings(tmp_path, server, concurrency=1)
    for allowed in (2, 3):
        with pytest.raises(Halted, match=f"budget.max_requests: {allowed} requests were sent"):
            ask(config.model_copy(update={"budget": BudgetConfig(max_requests=allowed)}))
        assert len(server.asked) == len(lines(config)) == allowed
    ask(config)
    assert len(server.asked) == len(standing(config)) == 5


def test_shards_share_a_benchmark_and_a_limit_takes_its_beginning(tmp_path: Path, server: ModelServer) -> None:
    config = settings(tmp_path, server)
    ask(config, shard=(1, 2))
    ask(config, shard=(2, 2))
    assert len(standing(config)) == len(server.asked) == 5
    assert ask(config)[-1] == "base: 0 answered, 5 were there already"
    other = config.model_copy(update={"run": tmp_path / "other"})
    assert ask(other, limit=2)[0] == "mmstar: 2 items"


def test_as_many_requests_are_in_flight_as_an_evaluation_allows(tmp_path: Path, server: ModelServer) -> None:
    server.answer = lambda _: Said(wait=1.5)
    rows = [HUGGING_FACE["mme"](n) for n in range(600)]
    write_parquet(tmp_path / "mme.parquet", rows)
    config = settings(tmp_path, server).model_copy(update={"benchmarks": {"mme": tmp_path / "mme.parquet"}})
    ask(config)
    assert server.most == 256 and len(server.asked) == 600
    named = settings(tmp_path, server, concurrency=3).model_copy(update={"benchmarks": config.benchmarks, "run": tmp_path / "slow"})
    server.most = 0
    ask(named, limit=20)
    assert server.most == 3


def test_what_cannot_be_answered_is_said_in_one_line(tmp_path: Path, server: ModelServer) -> None:
    config = settings(tmp_path, server)
    with pytest.raises(UserError, match=r"mmmu is not among the config's benchmarks, which are mmstar; add -o benchmarks\.mmmu=FILE"):
        answer(config, ["mmmu"], limit=None, shard=(1, 1), say=print)
    with pytest.raises(UserError, match=r"no benchmark is configured; give one as -o benchmarks\.mmstar="):
        ask(config.model_copy(update={"benchmarks": {}}))
    with pytest.raises(UserError, match=r"evaluate\.rows: no row 'pear'"):
        ask(Config.model_validate(config.model_dump() | {"evaluate": {"rows": ["pear"]}}))
    with pytest.raises(UserError, match=r"evaluate\.models\.bsae: no row has such a model; those of evaluate\.rows are base"):
        ask(Config.model_validate(config.model_dump() | {"evaluate": {"rows": ["base"], "models": {"bsae": {}}}}))
    with pytest.raises(UserError, match=r"there is no model base: say where it is by evaluate\.models\.base\.endpoint\.url or \.path, or set models\.base"):
        ask(Config.model_validate(config.model_dump() | {"evaluate": {"rows": ["base"]}}))
    with pytest.raises(UserError, match="pair-shuffled is a control on a run's own splits"):
        ask(Config.model_validate(config.model_dump() | {"evaluate": {"rows": ["pair-shuffled"]}}))
    with pytest.raises(UserError, match=r"there is no model dpo3 at .*: train it, or say where it is by evaluate\.models\.dpo3\.endpoint\.url"):
        ask(Config.model_validate(config.model_dump() | {"evaluate": config.evaluate.model_dump() | {"rows": ["base", "pair+dpo"]}, "dpo": {"rounds": 3}}))
    assert not server.asked


def test_the_predictions_say_who_was_asked(tmp_path: Path, server: ModelServer) -> None:
    config = settings(tmp_path, server)
    ask(config)
    asked = orjson.loads((predictions.folder(config.run, "mmstar", "base") / "asked.json").read_bytes())
    assert asked["facts"]["models"] == {"base": "m@1"} and asked["facts"]["prompts"]["direct"] == "{question}"
