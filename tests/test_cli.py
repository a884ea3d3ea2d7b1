"""Exit codes and messages of the command line: one line on stderr for what a user can mend, never a traceback."""

import errno
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from insightv import cli
from insightv.config import TeacherDials
from insightv.models.chat import EndpointDown
from tests.evaluation.benchmark_rows import TABLES, picture, write_table

WORK = ("demo", "run", "check", "import", "decontaminate", "generate", "assess", "build", "train", "evaluate", "world")
LOOKS = ("report", "results", "calibrate", "status", "defects", "ask", "publish", "journal", "harness")
SMALL = Path(__file__).parent / "small.yaml"
VERBS = (*WORK, *LOOKS)


def call(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["insightv", *arguments])
    with pytest.raises(SystemExit) as end:
        cli.main()
    return int(end.value.code or 0)


def raising(error: BaseException) -> Callable[..., None]:
    def fail(*_: object) -> None:
        raise error

    return fail


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_teaches(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], verb: str) -> None:
    assert call(monkeypatch, verb, "--help") == 0
    assert "Usage" in capsys.readouterr().out


@pytest.mark.parametrize("verb", ["demo", "run", "generate", "assess", "build", "train", "evaluate table"])
def test_every_verb_that_asks_for_chains_can_ask_again(monkeypatch: pytest.MonkeyPatch, verb: str) -> None:
    asked: list[bool] = []
    monkeypatch.setattr("insightv.verbs.run", lambda settings, only, *, retry_failed: asked.append(retry_failed))
    for flag in ([], ["--retry-failed"]):
        assert call(monkeypatch, *verb.split(), *([] if verb == "demo" else [str(cli.DEMO)]), *flag) == 0
    assert asked == [False, True]


def test_help_lists_every_verb(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(monkeypatch, "--help") == 0
    out = capsys.readouterr().out
    assert [verb for verb in VERBS if verb not in out] == []


def test_a_missing_config_is_one_line_and_exit_2(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert call(monkeypatch, "run", str(tmp_path / "none.yaml")) == 2
    error = capsys.readouterr().err
    assert error == f"insightv: no config at {tmp_path / 'none.yaml'}\n"


def test_import_turns_rows_and_images_into_problems(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    Image.new("RGB", (8, 8), "red").save(tmp_path / "a.png")
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"image": "a.png", "question": "Which colour?", "answer": "red"}\n{"image": "b.png", "question": "And this?", "answer": "blue"}\n')
    assert call(monkeypatch, "import", str(rows), str(tmp_path / "out"), "--images", str(tmp_path)) == 0
    assert len((tmp_path / "out" / "problems.jsonl").read_text(encoding="utf-8").splitlines()) == 1
    assert len((tmp_path / "out" / "rejections.jsonl").read_text(encoding="utf-8").splitlines()) == 1
    assert "rejections" in capsys.readouterr().out


def test_import_says_why_rows_were_left_out_and_can_end_at_the_first(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"query": "One and one?", "label": "2"}\n{"query": "No label?"}\n')
    columns = ("--columns", "question=query", "--columns", "answer=label")
    assert call(monkeypatch, "import", str(rows), str(tmp_path / "out"), *columns, "--name", "mine", "--licence", "MIT", "--quota", "3") == 0
    shown = capsys.readouterr().out
    assert "no_column" in shown and "row 2: no column 'label'" in shown
    assert '"licence": "MIT"' in (tmp_path / "out" / "manifest.json").read_text()
    assert call(monkeypatch, "import", str(rows), str(tmp_path / "stop"), *columns, "--on-error", "stop") == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert not (tmp_path / "stop" / "problems.jsonl").exists()


def test_decontaminate_leaves_out_what_a_benchmark_shows(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "0.png").write_bytes(picture(0))
    (tmp_path / "1.png").write_bytes(picture(1))
    rows = [{"image": f"{number}.png", "question": "Which colour?", "answer": "x"} for number in range(2)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert call(monkeypatch, "import", str(tmp_path / "rows.jsonl"), str(tmp_path / "data"), "--images", str(tmp_path)) == 0
    table = write_table(tmp_path / "mmstar.tsv", [TABLES["mmstar"](1)])
    work = ("decontaminate", str(tmp_path / "data"), str(tmp_path / "out"), "--against")
    capsys.readouterr()
    assert call(monkeypatch, *work, f"mmstar={table}", "--distance", "3", "--words", "12", "--pictures", "2") == 0
    assert "mmstar" in capsys.readouterr().out
    assert len((tmp_path / "out" / "problems.jsonl").read_text(encoding="utf-8").splitlines()) == 1
    said = json.loads((tmp_path / "out" / "manifest.json").read_text(encoding="utf-8"))["decontaminated"]
    assert (said["removed"], said["distance"], said["words"], said["pictures"]) == (1, 3, 12, 2)
    for against, error in (("mmlu=x", "no benchmark 'mmlu'"), (f"mme={tmp_path / 'none.tsv'}", "mme: there is no file or folder")):
        assert call(monkeypatch, *work, against) == 2
        said = capsys.readouterr().err
        assert error in said and said.count("\n") == 1


def test_harness_prints_the_command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "run.py").touch()
    work = ("harness", str(tmp_path / "out"), "--to", "vlmevalkit", "--package", str(tmp_path), "--url", "http://127.0.0.1:9000", "--model", "mine")
    assert call(monkeypatch, *work, f"mmstar={write_table(tmp_path / 'mmstar.tsv', [TABLES['mmstar'](1)])}") == 0
    said = capsys.readouterr().out
    assert said.startswith("LMUData=") and said.count("\n") == 1 and "--model mine --base-url http://127.0.0.1:9000/v1" in said
    assert call(monkeypatch, *work, "mmstar") == 2
    assert capsys.readouterr().err.startswith("insightv: mmstar has no file")


def test_the_teacher_needs_a_world(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text("seed: 1", encoding="utf-8")
    assert call(monkeypatch, "world", "teacher", str(path)) == 2
    assert "has no `world:` section" in capsys.readouterr().err


def test_overrides_reach_the_config(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text("seed: 1", encoding="utf-8")
    assert call(monkeypatch, "run", str(path), "-o", "generate.m=5", "--set", "seed=2") == 2
    assert "unknown key generate.m" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "code", "expected"),
    [
        (EndpointDown("http://127.0.0.1:8000/v1 did not answer for 600 s"), 2, "did not answer for 600 s; run the same command to go on"),
        (OSError(errno.ENOSPC, "No space left on device", "runs/demo/x"), 2, "the disk is full at runs/demo/x"),
        (KeyboardInterrupt(), 130, "stopped; run the same command to go on"),
    ],
)
def test_an_end_from_outside_says_how_to_go_on(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], error: BaseException, code: int, expected: str
) -> None:
    monkeypatch.setattr(cli, "load_config", raising(error))
    assert call(monkeypatch, "run", "any.yaml") == code
    message = capsys.readouterr().err
    assert expected in message and "Traceback" not in message and len(message.splitlines()) == 1


def test_a_fault_of_ours_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cli, "load_config", raising(OSError(errno.EIO, "broken")))
    monkeypatch.setattr(sys, "argv", ["insightv", "run", "any.yaml"])
    with pytest.raises(OSError, match="broken"):
        cli.main()


def test_a_spent_budget_is_one_line_and_exit_2_and_a_raised_one_goes_on(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path, counting_teacher: Any
) -> None:
    url, asked = counting_teacher(TeacherDials())
    settings = [f"run={tmp_path / 'run'}", *(f"models.{role}.url={url}" for role in ("generator", "judge", "scorer"))]

    def generate(*more: str) -> tuple[int, str]:
        code = call(monkeypatch, "generate", str(SMALL), *(word for setting in (*settings, *more) for word in ("-o", setting)))
        return code, capsys.readouterr().err

    end = "raise it; run the same command to go on, nothing is lost\n"
    for most in (20, 50):
        assert generate(f"budget.max_requests={most}") == (2, f"insightv: budget.max_requests: {most} requests were sent; {end}")
        assert asked.total() == most
    assert generate(f"budget.max_requests={most}")[0] == 2 and asked.total() == most, "nothing is asked while the budget stays as it is"
    assert generate() == (0, "")
    assert set(asked.values()) == {1}
    # Another run that shares the journal has a budget of its own, and pays for nothing here.
    settings[0] = f"run={tmp_path / 'other'}"
    assert generate("budget.max_requests=1", f"journal={tmp_path / 'run' / 'journal'}") == (0, "")
    assert set(asked.values()) == {1}
