"""`insightv calibrate` on a run folder made by hand: the world's truth, labels by hand, and the sheet between them."""

import io
import json
from pathlib import Path

import pytest
from PIL import Image

from insightv.calibrate import report, sheet
from insightv.config import Config, UserError
from insightv.config_file import save_config
from insightv.datasets.sources import write_problems
from insightv.records import Chain, Problem, Score, Step, Verdict
from insightv.store import ImageStore, write_records
from insightv.world.questions import parse, reason
from insightv.world.scenes import Table, to_json

TABLE = Table((1, 2, 3, 4, 9, 0, 5, 5, 7, 7, 8, 6))


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """Six chains of a world's problem: right, right in a sentence, wrong; the judge lets a wrong one pass."""
    text = "What number is at b3?"
    question = parse(text)
    assert question is not None
    trace = reason(question, TABLE)
    folder = tmp_path / "run"
    data = io.BytesIO()
    Image.new("RGB", (8, 8), "red").save(data, "PNG")
    picture = ImageStore(folder / "images").add(data.getvalue())
    meta = {"family": "entry", "scene": to_json(TABLE)}
    problem = Problem(id="p", question=text, images=(picture,), answers=(trace.answer,), answer_type="text", meta=meta)
    steps = tuple(Step(summary=title, reasoning=said) for title, said in trace.steps)
    answers = [trace.answer, trace.answer, f"I see {trace.answer} here", "I see 99 here", "99", "98"]
    chains = [Chain(id=f"c{i}", problem_id="p", model="m", mode="single", index=i, steps=steps, answer=answer) for i, answer in enumerate(answers)]
    said = [True, True, True, True, False, False]
    write_problems(folder / "problems" / "train.jsonl", [problem])
    write_records(folder / "generate" / "chains.jsonl", chains)
    found = [Verdict(chain_id=f"c{i}", problem_id="p", correct=right, by="judge" if i in (2, 3) else "rule") for i, right in enumerate(said)]
    write_records(folder / "assess" / "verdicts.jsonl", found)
    write_records(folder / "assess" / "scores.jsonl", [Score(chain_id=f"c{i}", problem_id="p", value=90 - 20 * i, position=i) for i in range(4)])
    save_config(Config(run=folder, seed=1), folder / "config.yaml")
    return folder


def groups(run: Path) -> dict[str, dict[str, object]]:
    found: dict[str, dict[str, object]] = json.loads((run / "calibration.json").read_text(encoding="utf-8"))["groups"]
    return found


def test_the_world_knows_who_was_right_also_in_a_sentence(run: Path) -> None:
    rows, positions = report(run)
    assert [row["group"] for row in rows] == ["all", "by judge", "by rule", "family entry"]
    assert groups(run)["all"]["confusion"] == {"true_positive": 3, "false_positive": 1, "false_negative": 0, "true_negative": 2}
    assert groups(run)["by judge"]["precision"] == {"value": 0.5, "low": None, "high": None, "n": 2}
    assert [row["position"] for row in positions] == [1, 2, 3, 4]


def test_a_sheet_is_drawn_filled_in_and_read_back(run: Path) -> None:
    path = sheet(run, 5)
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    assert len({line["chain_id"] for line in lines}) == len(lines) == 5
    assert sum(line["weight"] for line in lines) == pytest.approx(6)
    assert {line["correct"] for line in lines} == {None}
    assert {"verdict", "score", "by"}.isdisjoint(lines[0])
    assert (run / lines[0]["images"][0]).is_file()
    assert sheet(run, 5).read_text(encoding="utf-8") == path.read_text(encoding="utf-8")
    with pytest.raises(UserError, match=r"no chain that assess has judged is labelled"):
        report(run, labels=path)

    for line in lines[:4]:
        line["correct"] = line["chain_id"] in ("c0", "c1", "c2")
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    report(run, labels=path)
    assert groups(run)["all"]["n"] == 4
    with pytest.raises(UserError, match=r"holds labels already; move it away"):
        sheet(run, 3)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("{", r"labels\.jsonl:1: not a label: "),
        ('{"chain_id": "c0", "correct": "yes"}', r"labels\.jsonl:1: not a label: correct: "),
        ('{"chain_id": "c0", "correct": true, "quality": 2}', r"labels\.jsonl:1: not a label: quality: "),
        ('\n{"chain_id": "zz", "correct": true}', r"labels\.jsonl:2: this run has no chain 'zz'"),
        ('{"chain_id": "c0", "correct": true}\n{"chain_id": "c0", "correct": false}', r"labels\.jsonl:2: chain 'c0' is labelled twice"),
        ('{"chain_id": "c0", "correct": null}', r"no chain that assess has judged is labelled"),
        ('{"chain_id": "' + "x" * 2**20 + '"}', r"labels\.jsonl:1: a line of labels has \d+ bytes at most"),
    ],
)
def test_labels_that_do_not_fit_are_one_line(run: Path, tmp_path: Path, text: str, complaint: str) -> None:
    path = tmp_path / "labels.jsonl"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(UserError, match=complaint):
        report(run, labels=path)
    assert not (run / "calibration.json").exists()


def test_a_run_without_truth_or_judgements_says_what_to_do(run: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no run at"):
        report(tmp_path / "none")
    with pytest.raises(UserError, match=r"no labels at"):
        report(run, labels=tmp_path / "none.jsonl")
    with pytest.raises(UserError, match=r"has no finished own-chains-assess"):
        report(run, "own-chains-assess")
    with pytest.raises(UserError, match=r"'\.\./assess' judges no chains"):
        report(run, "../assess")
    problem = Problem(id="p", question="?", answers=("9",))
    write_problems(run / "problems" / "train.jsonl", [problem])
    with pytest.raises(UserError, match=r"nobody knows the truth; draw a sheet by --sample"):
        report(run)


def test_ratings_of_several_orders_count_for_positions(run: Path) -> None:
    ratings = [Score(chain_id=f"c{i}", problem_id="p", value=50, position=place) for place in (0, 1) for i in range(4)]
    write_records(run / "assess" / "ratings.jsonl", ratings)
    assert [(row["position"], row["n"]) for row in report(run)[1]] == [(1, 4), (2, 4)]
