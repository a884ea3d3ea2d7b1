"""The verbs on the smallest whole run: nothing is made or asked twice, a change remakes what depends on it, and mistakes are one line."""

import json
import os
import re
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from insightv import corrections, processes, showing, verbs
from insightv.config import Config, TeacherDials, UserError
from insightv.config_file import load_config, save_config
from insightv.datasets.sources import write_problems
from insightv.models.chat import EndpointDown
from insightv.records import Chain, Problem
from insightv.stages.context import SHIPPED_BASE
from insightv.store import ImageStore, Run, read_records
from insightv.world.problems import make_split

SMALL = Path(__file__).parent / "small.yaml"
ROWS = ("base", "single", "pair", "pair+dpo")
APART = processes._Conductor._apart
"""As it is, before the tests' own stands in its place: a stage that is a process plans for itself."""
REQUESTS = 6 + 1
"""Requests of a chain at most: its steps and its conclusion."""

Teach = Callable[[TeacherDials], tuple[str, Any]]

pytestmark = pytest.mark.usefixtures("in_this_process")


def small(run: Path, base: Path, *more: str) -> Config:
    # One stage at a time: here they share a process, and accelerate's state does not bear two trainings in it at once.
    return load_config(SMALL, [f"run={run}", f"models.base={base}", "parallel=1", *more])


def to(url: str, *more: str) -> list[str]:
    """Overrides that send all roles to one URL."""
    return [f"models.{role}.{setting}" for role in ("generator", "judge", "scorer") for setting in (f"url={url}", *more)]


@pytest.fixture(scope="module")
def whole(in_this_process: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of the small config."""
    config = small(tmp_path_factory.mktemp("loop") / "run", SHIPPED_BASE)
    verbs.run(config)
    return config.run


@pytest.fixture
def again(whole: Path, tmp_path: Path) -> Path:
    """A copy of the finished run, to be changed."""
    return shutil.copytree(whole, tmp_path / "run")


def made(capsys: pytest.CaptureFixture[str]) -> set[str]:
    """The stages that ended since the last look."""
    return set(re.findall(r"^✓ (\S+)", capsys.readouterr().out, re.MULTILINE))


def journalled(run: Path) -> int:
    count = 0
    for path in (run / "journal").glob("*.sqlite"):
        with sqlite3.connect(path) as connection:
            count += connection.execute("SELECT count(*) FROM replies").fetchone()[0]
    return count


@contextmanager
def no_teacher(_: Config) -> Iterator[Config]:
    raise AssertionError("the teacher was started")
    yield


def test_a_second_run_makes_nothing_and_asks_nobody(again: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(verbs, "with_teacher", no_teacher)
    verbs.run(small(again, SHIPPED_BASE))
    out = capsys.readouterr().out
    assert "✓" not in out and f"report: {again / 'report.html'}" in out
    assert all(row in out for row in ROWS)


@pytest.mark.parametrize(
    ("change", "remade"),
    [
        ("models.generator.concurrency=2", set()),
        ("systems.rows=[base, reasoner]", {"evaluate-reasoner"}),
        ("systems.answer.max_tokens=5", {f"evaluate-{row}" for row in ROWS}),
        ("dpo.beta=0.2", {"dpo1", "evaluate-pair+dpo"}),
        ("single.learning_rate=1.0e-4", {"single", "evaluate-single"}),
        ("summary.size=14", {"summary-data", "summarizer", "evaluate-pair", "evaluate-pair+dpo"}),
    ],
)
def test_a_change_remakes_what_depends_on_it(again: Path, capsys: pytest.CaptureFixture[str], change: str, remade: set[str]) -> None:
    verbs.run(small(again, SHIPPED_BASE, change))
    assert made(capsys) == remade


def test_corrections_by_hand_decide_what_the_next_build_takes(again: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A chain that is wrong by hand, and one that is flagged, leave the reasoning set with the reason; taken back, all is as it was."""
    data, config = again / "reasoning-data", small(again, SHIPPED_BASE)
    before = (data / "manifest.jsonl").read_bytes()
    rows = [json.loads(line) for line in before.splitlines()]
    wrong, flagged = ((row["chains"]["chain"]["chain_id"], row["problem_id"]) for row in rows[:2])
    corrections.amend(again, *wrong, {"correct": False, "note": "it is blue"})
    corrections.amend(again, *flagged, {"flagged": True})
    verbs.run(config, {"build"})
    assert {"reasoning-data", "summary-data"} <= made(capsys)
    rejected = {row.get("chain_id"): row for row in map(json.loads, (data / "rejections.jsonl").open())}
    assert rejected[wrong[0]]["reason"] == "wrong_answer" and "flagged by hand" in rejected[flagged[0]]["detail"]
    assert not {wrong[0], flagged[0]} & {json.loads(line)["chains"]["chain"]["chain_id"] for line in (data / "manifest.jsonl").open()}
    for chain, problem in (wrong, flagged):
        corrections.amend(again, chain, problem, {"correct": None, "flagged": False})
    verbs.run(config, {"build"})
    assert (data / "manifest.jsonl").read_bytes() == before


def test_what_is_said_by_hand_while_a_run_works_waits_for_the_next(again: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    row = json.loads((again / "reasoning-data" / "manifest.jsonl").read_text().splitlines()[0])

    async def meanwhile(self: Any, *told: Any) -> None:
        corrections.amend(again, row["chains"]["chain"]["chain_id"], row["problem_id"], {"flagged": True})
        await APART(self, *told)

    with monkeypatch.context() as patched:
        patched.setattr(processes._Conductor, "_apart", meanwhile)
        verbs.run(small(again, SHIPPED_BASE, "systems.rows=[base, reasoner]", "systems.answer.max_tokens=5", "parallel=1"))
    assert made(capsys) == {"evaluate-base", "evaluate-reasoner"}
    verbs.run(small(again, SHIPPED_BASE), {"build"})
    assert "reasoning-data" in made(capsys)


def test_the_table_follows_settings_that_no_stage_depends_on(again: Path, capsys: pytest.CaptureFixture[str]) -> None:
    verbs.run(small(again, SHIPPED_BASE, "systems.baseline=single"))
    out = capsys.readouterr().out
    assert "base - single" in out and "single - base" not in out
    assert load_config(again / "config.yaml").systems.baseline == "single"


def test_the_report_has_the_rows_of_the_saved_config_as_they_were_made_with_it(
    again: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def shown() -> list[str]:
        return [row.system for table in showing.gathered(again).tables[:1] for row in table.rows]

    assert shown() == list(ROWS)
    monkeypatch.setattr("insightv.plan.stamp", lambda path: "moved away")
    assert shown() == list(ROWS) and states(again)["base"] == "to do"
    monkeypatch.undo()
    save_config(load_config(again / "config.yaml", ["systems.rows=[pair, base]"]), again / "config.yaml")
    assert shown() == ["pair", "base"] and capsys.readouterr().err == ""
    save_config(load_config(again / "config.yaml", ["summarizer.max_steps=4"]), again / "config.yaml")
    assert shown() == ["base"]
    assert re.fullmatch(r"not shown, because made with other settings or an older version: pair; run the config again\n", capsys.readouterr().err)


def test_a_changed_dial_is_another_teacher(again: Path) -> None:
    config = small(again, SHIPPED_BASE, "world.teacher.malformed=0.5")
    before = {chain.model for chain in read_records(again / "generate" / "chains.jsonl", Chain)}
    rows = journalled(again)
    verbs.run(config, {"generate"})
    after = {chain.model for chain in read_records(again / "generate" / "chains.jsonl", Chain)}
    assert len(before) == len(after) == 1 and before != after
    assert journalled(again) >= rows + 36 * 3
    mine = config.model_copy(update={"models": load_config(SMALL, to("http://127.0.0.1:1/v1", "revision=mine")).models})
    assert verbs.name_teacher(mine) == mine


def test_a_mistake_is_one_line_that_names_the_place(tmp_path: Path) -> None:
    mistakes = {
        "systems.rows=[base, triple]": r"^systems\.rows: no row 'triple'; there are base, .*pair\+dpo",
        "systems.rows=[pair+dpo3]": r"^systems\.rows: pair\+dpo3 needs dpo\.rounds to be at least 3, it is 1$",
        "systems.primary=[[base, pari]]": r"^systems\.primary: no row 'pari'; there are base, .*pair\+dpo",
        "systems.primary=[[base, pair+dpo2]]": r"^systems\.primary: pair\+dpo2 needs dpo\.rounds to be at least 2, it is 1$",
        "systems.primary=[[pair, reasoner]]": (
            r"^systems\.primary: reasoner is not among systems\.rows, which are base, single, pair, pair\+dpo; "
            r"add it there, name others, or write -o 'systems\.primary=\[\]' to compare nothing beforehand$"
        ),
        "systems.baseline=basis": r"^systems\.baseline: no row 'basis'; there are base, ",
        "systems.rows=[pair]": (
            r"^systems\.baseline: base is not among systems\.rows, which are pair; add it there, name others, or write -o systems\.baseline=pair, for instance$"
        ),
        "models.base=/nowhere/base": r"^base: models\.base: no model at /nowhere/base: config\.json is missing",
    }
    for mistake, message in mistakes.items():
        with pytest.raises(UserError, match=message) as error:
            verbs.run(small(tmp_path / "run", SHIPPED_BASE, mistake))
        assert len(str(error.value).splitlines()) == 1


def test_without_a_world_splits_and_endpoints_must_be_there(tmp_path: Path) -> None:
    endpoints = to("http://127.0.0.1:1/v1", "max_outage=0.3")
    with pytest.raises(UserError, match=r"^models\.generator\.url, .* must be set, or a world configured$"):
        verbs.run(small(tmp_path / "run", SHIPPED_BASE, "world=null"))
    with pytest.raises(UserError, match=r"^models\.base is not set: give the folder of a checkpoint in transformers' layout, or configure a world"):
        verbs.run(small(tmp_path / "run", SHIPPED_BASE, "world=null", "models.base=null", *endpoints))
    with pytest.raises(UserError, match=r"^problems: problems\.train is not set"):
        # Chains and their assessment need no base.
        verbs.run(small(tmp_path / "run", SHIPPED_BASE, "world=null", "models.base=null", *endpoints), {"assess"})
    with pytest.raises(UserError, match=r"^problems: problems\.train is not set"):
        verbs.run(small(tmp_path / "run", SHIPPED_BASE, "world=null", *endpoints))
    with pytest.raises(UserError, match=r"^problems: no problem records at /nowhere/train\.jsonl$"):
        verbs.run(small(tmp_path / "run", SHIPPED_BASE, "world=null", "problems.train=/nowhere/train.jsonl", *endpoints))


def states(run: Path) -> dict[str, str]:
    return {str(row["stage"]): str(row["state"]) for row in showing.status(run)}


def test_problems_that_changed_in_place_are_taken_anew(tmp_path: Path, counting_teacher: Teach, capsys: pytest.CaptureFixture[str]) -> None:
    url, _ = counting_teacher(TeacherDials())
    path = tmp_path / "mine" / "problems.jsonl"
    mine = list(make_split(ImageStore(path.parent / "images"), "train", 9, seed=0, difficulty=0.2))
    write_problems(path, mine)
    own = path.with_name("own.jsonl")
    write_problems(own, make_split(ImageStore(path.parent / "images"), "own", 3, seed=0, difficulty=0.2))
    files = {"train": path, "preference": path, "own": own}
    config = small(tmp_path / "run", SHIPPED_BASE, "world=null", *(f"problems.{split}={file}" for split, file in files.items()), *to(url))
    verbs.run(config, {"generate"})
    assert made(capsys) == {"problems", "generate"} and states(config.run)["generate"] == "done"

    os.utime(path)
    assert states(config.run)["problems"] == "to do"
    verbs.run(config, {"generate"})
    assert made(capsys) == {"problems"} and states(config.run)["generate"] == "done"

    write_problems(path, mine[:-1])
    verbs.run(config, {"generate"})
    assert made(capsys) == {"problems", "generate"}
    path.unlink()
    with pytest.raises(UserError, match=rf"^problems: no problem records at {path}$"):
        verbs.run(config, {"generate"})


@pytest.mark.parametrize("shipped", [True, False])
def test_a_base_that_changed_in_place_is_taken_anew(
    tmp_path: Path, tiny_llava: Path, shipped: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = shutil.copytree(tiny_llava, tmp_path / "base")
    monkeypatch.setattr("insightv.loop.SHIPPED_BASE", folder)
    monkeypatch.setattr("insightv.stages.context.SHIPPED_BASE", folder)
    config = small(tmp_path / "run", folder, *(["models.base=null"] if shipped else []))
    verbs.run(config, {"base"})
    identity = (config.run / "base" / "base.json").read_bytes()
    for name, text, same in (("tokenizer.json", "", True), ("chat_template.jinja", " ", False)):
        with (folder / name).open("a", encoding="utf-8") as file:
            file.write(text)
        os.utime(folder / name)
        assert states(config.run)["base"] == "to do"
        capsys.readouterr()
        verbs.run(config, {"base"})
        assert made(capsys) == {"base"} and ((config.run / "base" / "base.json").read_bytes() == identity) is same
    shutil.rmtree(folder)
    with pytest.raises(UserError, match=rf"^base: models\.base: no model at {folder}: "):
        verbs.run(config, {"base"})


def test_when_all_chains_fail_nothing_is_committed_and_a_mended_address_is_asked(tmp_path: Path, counting_teacher: Teach) -> None:
    url, _ = counting_teacher(TeacherDials())
    wrong = small(tmp_path / "run", SHIPPED_BASE, *to(url.removesuffix("/v1"), "revision=mine"))
    mended = small(tmp_path / "run", SHIPPED_BASE, *to(url, "revision=mine"))
    # Failures are in the journal: without the flag they stand, whatever the address.
    for config in (wrong, mended):
        with pytest.raises(UserError, match=r"^generate: all 36 chains failed, 36 of them with: HTTP 404.*; mend this, then .* --retry-failed$"):
            verbs.run(config, {"generate"})
    assert not (tmp_path / "run" / "generate").exists()
    verbs.run(mended, {"generate"}, retry_failed=True)
    assert {chain.status for chain in read_records(tmp_path / "run" / "generate" / "chains.jsonl", Chain)} <= {"ok", "defect"}


@pytest.mark.parametrize(
    ("verb", "role", "records", "mark"),
    [("generate", "generator", "chains.jsonl", b'"status":"failed"'), ("assess", "judge", "verdicts.jsonl", b'"correct":null')],
)
def test_what_failed_in_a_finished_stage_is_asked_again(
    tmp_path: Path, counting_teacher: Teach, capsys: pytest.CaptureFixture[str], verb: str, role: str, records: str, mark: bytes
) -> None:
    # Answers in sentences, so that the judge is asked; nothing malformed, so that all that fails are requests.
    dials = {"wordy_answer": 1.0, "malformed": 0.0, "missing_score": 0.0}
    (sound, _), (broken, _) = (counting_teacher(TeacherDials(**dials, error_rate=rate)) for rate in (0, 0.3))
    where = [*to(sound, "revision=mine"), f"models.{role}.retries=0"]
    folder = tmp_path / "run" / verb
    verbs.run(small(tmp_path / "run", SHIPPED_BASE, *where, f"models.{role}.url={broken}"), {verb})
    failed = manifest(folder)["summary"]["failed"]
    assert 0 < failed < 36 and (folder / records).read_bytes().count(mark) == failed

    url, asked = counting_teacher(TeacherDials(**dials))
    mended = small(tmp_path / "run", SHIPPED_BASE, *where, f"models.{role}.url={url}")
    capsys.readouterr()
    verbs.run(mended, {verb})
    assert made(capsys) == set() and not asked
    verbs.run(mended, {verb}, retry_failed=True)
    assert verb in made(capsys) and manifest(folder)["summary"]["failed"] == 0 and mark not in (folder / records).read_bytes()
    # Only what failed, and the rest of a chain that ended there; what came the first time is not paid again.
    assert 0 < asked.total() <= failed * REQUESTS
    verbs.run(mended, {verb}, retry_failed=True)
    assert made(capsys) == set()


def manifest(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "manifest.json").read_bytes())


def test_an_endpoint_out_of_reach_ends_the_run_and_the_check(tmp_path: Path) -> None:
    config = small(tmp_path / "run", SHIPPED_BASE, *to("http://127.0.0.1:1/v1", "max_outage=0.3"))
    with pytest.raises(EndpointDown, match=r"^http://127\.0\.0\.1:1/v1 was out of reach for 0\.3 s"):
        verbs.run(config)
    for row in verbs.check(config):
        assert not row["ready"] and "http://127.0.0.1:1/v1 cannot be reached: " in str(row["reasons"])
    # What did not need it is done, what did was begun.
    states = {str(row["stage"]): row["state"] for row in showing.status(config.run)}
    assert (states["problems"], states["generate"], states["assess"]) == ("done", "begun", "to do")


def test_status_before_and_after(whole: Path, tmp_path: Path) -> None:
    for look in (showing.status, showing.report):
        with pytest.raises(UserError, match=f"^no run at {tmp_path}: it has no config.yaml$"):
            look(tmp_path)
    rows = showing.status(whole)
    assert {row["state"] for row in rows} == {"done"}
    summaries = {row["stage"]: str(row["summary"]) for row in rows}
    assert "train 18" in summaries["problems"] and "chains 36" in summaries["generate"] and "test macro" not in summaries
    assert set(summaries) == {path.parent.name for path in whole.glob("*/manifest.json")}


def test_ask_streams_the_chain_then_the_answer(whole: Path) -> None:
    said: set[str] = set()
    # After a few updates a model may have nothing to say to one question.
    for problem in read_records(whole / "problems" / "test.jsonl", Problem):
        picture = Run(whole).images.path(problem.images[0])
        kinds = [delta.kind for delta in verbs.ask(whole, picture, problem.question, problem.options)]
        assert kinds == sorted(kinds, key=("reasoning", "content", "usage").index) and kinds[-1] == "usage"
        said.update(kinds)
        if len(said) == 3:
            return
    raise AssertionError(f"the pair said only {said}")


def test_ask_refuses_what_is_no_picture_and_a_run_without_agents(whole: Path, again: Path, tmp_path: Path) -> None:
    text = tmp_path / "a.png"
    text.write_text("no picture")
    for path, message in ((text, f"^{text}: "), (tmp_path / "none.png", "none.png: No such file or directory$"), (tmp_path, f"^{tmp_path}: Is a directory$")):
        with pytest.raises(UserError, match=message) as error:
            list(verbs.ask(whole, path, "What?"))
        assert len(str(error.value).splitlines()) == 1
    Image.new("RGB", (8, 8)).save(tmp_path / "b.png")
    shutil.rmtree(again / "dpo1")
    with pytest.raises(UserError, match=r"has no trained dpo1 yet; finish the run first$"):
        list(verbs.ask(again, tmp_path / "b.png", "What?"))
    with pytest.raises(UserError, match=r"run `insightv demo` first$"):
        list(verbs.ask(tmp_path / "none", tmp_path / "b.png", "What?"))


def test_a_check_says_what_each_role_can_and_leaves_the_run_as_it_was(tmp_path: Path, counting_teacher: Teach) -> None:
    url, asked = counting_teacher(TeacherDials())
    config = small(tmp_path / "run", SHIPPED_BASE, *to(url, "price_out=1000"))
    rows = verbs.check(config)
    assert [row["role"] for row in rows] == ["generator", "judge", "scorer"]
    for row in rows:
        assert row["ready"] and row["listed"] == row["json schema"] == row["images"] == "yes" and row["cost"] > 0
    assert str(rows[0]["one item"]).startswith("ok, ") and rows[1]["one item"] == "calls a right answer correct"
    assert asked.total() >= 5 and journalled(config.run) == 0
    asked.clear()
    verbs.run(config, {"generate"})
    assert set(asked.values()) == {1} and asked.total() == journalled(config.run)
