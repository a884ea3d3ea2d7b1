"""A plan of stages: what was made meanwhile is left, and what a stage is made from may change while a run goes on."""

from pathlib import Path
from typing import Any

from insightv import loop, verbs
from insightv.config import Config
from insightv.config_file import load_config
from insightv.plan import Plan, Step, make
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
