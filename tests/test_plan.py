"""A plan of stages: what was made meanwhile is left, and what a stage is made from may change while a run goes on."""

from pathlib import Path
from typing import Any

from insightv import loop, verbs
from insightv.config import Config
from insightv.config_file import load_config
from insightv.plan import Plan, Step, make, take
from insightv.stages.context import Context
from insightv.store import Run

SMALL = Path(__file__).parent / "small.yaml"


def test_a_stage_that_another_process_made_meanwhile_is_left(tmp_path: Path, tiny_llava: Path) -> None:
    config = load_config(SMALL, [f"run={tmp_path}", f"models.base={tiny_llava}"])
    verbs.run(config, {"problems"})
    plan = loop.plan(config)
    made = plan.stage(Run(tmp_path), "problems").outputs_hash

    def fail(*_: object) -> dict[str, object]:
        raise AssertionError("made again")

    plan.steps["problems"] = Step("problems", (), fail, plan.steps["problems"].settings, False)
    make(plan, Run(tmp_path), "problems", lambda _: None, False)
    assert plan.stage(Run(tmp_path), "problems").outputs_hash == made


def test_a_file_outside_that_changes_while_a_run_goes_on_does_not_end_it(tmp_path: Path) -> None:
    config, file, run = Config(run=tmp_path / "run"), tmp_path / "rows.jsonl", Run(tmp_path / "run")

    def copy(_: object, work: Path) -> dict[str, Any]:
        (work / "rows").write_bytes(file.read_bytes())
        return {}

    def plan() -> Plan:
        steps = Plan(config)
        steps.add("rows", (), copy, ["as they are"], outside=[file])
        steps.add("data", ("rows",), copy, [])
        return steps

    file.write_text("one", encoding="utf-8")
    make(plan(), run, "rows", lambda _: None, False)
    file.write_text("one more", encoding="utf-8")
    assert not plan().stage(run, "rows").done
    make(plan(), run, "data", lambda _: None, False)
    assert (run.folder / "rows" / "rows").read_text() == "one"
    make(plan(), run, "rows", lambda _: None, False)
    assert (run.folder / "rows" / "rows").read_text() == "one more"
    # Neither the file nor other settings may be taken for what it was made from.
    steps = plan()
    steps.add("rows", (), copy, ["in another way"], outside=[file])
    steps.recall(run, ["rows"])
    assert not steps.stage(run, "rows").done


def finished(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file() and not path.name.startswith(".")}


def test_what_another_run_has_made_of_the_same_things_is_taken_from_there(tmp_path: Path, tiny_llava: Path) -> None:
    first = load_config(SMALL, [f"run={tmp_path / 'first'}", f"models.base={tiny_llava}"])
    verbs.run(first, {"generate"})
    second = first.model_copy(update={"run": tmp_path / "second", "reuse": (tmp_path / "none", tmp_path / "first")})
    asked = sorted((tmp_path / "first" / "journal").glob("*.sqlite"))
    before = finished(tmp_path / "first" / "generate")
    verbs.run(second, {"generate"})
    for name in ("problems", "generate"):
        assert finished(tmp_path / "second" / name) == finished(tmp_path / "first" / name)
    assert finished(tmp_path / "first" / "generate") == before
    assert asked and not list((tmp_path / "second" / "journal").glob("*.sqlite"))
    plan = loop.plan(verbs.name_teacher(second))
    shown = Context(second, Run(second.run), lambda _: None).problems("train")[0]
    assert Run(second.run).images.get(shown.images[0])
    assert all(plan.stage(Run(second.run), name).done for name in ("problems", "generate"))


def test_what_was_made_of_other_things_is_not_taken(tmp_path: Path, tiny_llava: Path) -> None:
    first = load_config(SMALL, [f"run={tmp_path / 'first'}", f"models.base={tiny_llava}"])
    verbs.run(first, {"problems"})
    other = first.model_copy(update={"run": tmp_path / "second", "reuse": (tmp_path / "first",), "seed": 7})
    assert take(loop.plan(other), Run(other.run), "problems", False) is None
    same = other.model_copy(update={"seed": 0})
    (tmp_path / "first" / "problems" / "test.jsonl").unlink()
    # A stage that lacks a file is none.
    assert take(loop.plan(same), Run(same.run), "problems", False) is None


def test_an_attempt_of_ones_own_leaves_nothing_in_what_is_taken(tmp_path: Path, tiny_llava: Path) -> None:
    first = load_config(SMALL, [f"run={tmp_path / 'first'}", f"models.base={tiny_llava}"])
    verbs.run(first, {"problems"})
    second = first.model_copy(update={"run": tmp_path / "second", "reuse": (tmp_path / "first",)})
    plan, run = loop.plan(second), Run(second.run)
    work = plan.stage(run, "problems").work
    (work / "half.jsonl").write_text("half")
    (work / "more").mkdir()
    assert take(plan, run, "problems", False) == tmp_path / "first"
    assert finished(second.run / "problems") == finished(first.run / "problems")
