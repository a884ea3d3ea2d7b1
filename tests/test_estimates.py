import json
from pathlib import Path

import pytest
from transformers import LlamaConfig, LlavaNextConfig

from insightv.cli import main
from insightv.config import Config, UserError
from insightv.config_file import load_config
from insightv.estimates import Tokens, counts, project, trainings

ROOT = Path(__file__).parent.parent
TOKENS = Tokens(100, 20, 16)


def facts(config: Config) -> dict[str, dict[str, object]]:
    return {str(row["training"]): row for row in project(config, TOKENS, "h100", 0.5)}


def test_rows_are_counted_where_a_set_is_built_and_else_as_many_as_the_settings_allow(tmp_path: Path) -> None:
    config = load_config(ROOT / "configs" / "demo.yaml", [f"run={tmp_path}"])
    found = {training.stage: training for training in trainings(config, {})}
    assert list(found) == ["reasoner", "single", "round1-reference", "dpo1", "round2-reference", "dpo2", "summarizer"]
    assert (found["reasoner"].rows, found["reasoner"].told) == (1600, "problems.train, at most")
    assert (found["dpo1"].rows, found["dpo1"].answers) == (400, 2) and found["round2-reference"].scores
    assert found["reasoner"].passes == 240 * 16 / 1600 and found["dpo2"].passes == found["round1-reference"].passes == 1
    (tmp_path / "round2-data").mkdir()
    (tmp_path / "round2-data" / "manifest.json").write_text(json.dumps({"summary": {"rows": 123}}))
    (tmp_path / "summary-data").mkdir()
    (tmp_path / "summary-data" / "manifest.json").write_text(json.dumps({"summary": {"rows": 77}}))
    found = {training.stage: training for training in trainings(config, {"reasoning-data": 9})}
    assert (found["dpo2"].rows, found["round2-reference"].told, found["summarizer"].rows) == (123, "the data set", 77)
    assert (found["reasoner"].rows, found["reasoner"].told, found["single"].rows) == (9, "--rows", 1600)
    with pytest.raises(UserError, match=r"--rows: no data set 'reasoner'; there are reasoning-data, .*round2-data"):
        list(trainings(config, {"reasoner": 9}))
    assert counts(["a=1", "b=2"]) == {"a": 1, "b": 2}
    with pytest.raises(UserError, match=r"--rows 'a' must read DATA=N"):
        counts(["a"])


def test_hours_follow_from_operations_and_the_gpus(tmp_path: Path) -> None:
    config = load_config(ROOT / "configs" / "demo.yaml", [f"run={tmp_path}"])
    found = facts(config)
    assert found["dpo1"]["M tokens"] == round(400 * (100 + 2 * 20) / 1e6, 1)
    twice = project(load_config(ROOT / "configs" / "demo.yaml", [f"run={tmp_path}", "reasoner.max_steps=480"]), TOKENS, "h100", 0.5)[0]
    assert float(twice["PFLOP"]) == pytest.approx(2 * float(str(found["reasoner"]["PFLOP"])), abs=0.1)  # type: ignore[arg-type]


def test_fsdp_divides_what_a_training_holds_but_a_scoring_has_the_whole_model(tmp_path: Path) -> None:
    LlavaNextConfig(text_config=LlamaConfig(hidden_size=4096, intermediate_size=14336, num_hidden_layers=32, vocab_size=32000)).save_pretrained(tmp_path)

    def held(arguments: str) -> list[float]:
        told = [f"run={tmp_path}", f"models.base={tmp_path}", *(f"{name}.{setting}" for name in ("reasoner", "dpo") for setting in ("processes=8", arguments))]
        found = facts(load_config(ROOT / "configs" / "demo.yaml", told))
        return [float(str(found[name]["GB on each"])) for name in ("reasoner", "dpo1", "round1-reference")]

    whole, parts = held("arguments={}"), held("arguments={fsdp: true}")
    assert min(whole) > 25
    assert parts[0] < whole[0] / 5 and parts[1] < whole[1] / 5 and parts[2] == whole[2]


def test_problems_that_nobody_can_count_are_one_clear_line() -> None:
    config = load_config(ROOT / "configs" / "paper.yaml", ["models.base=insightv/world/base/weights"])
    with pytest.raises(UserError, match=r"problems\.train: no file at data/paper/train/problems\.jsonl, so its rows cannot be counted"):
        list(trainings(config, {}))


def test_the_verb_prints_a_line_for_each_training(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setattr("sys.argv", ["insightv", "plan", str(ROOT / "configs" / "demo.yaml"), "-o", f"run={tmp_path}", "--gpu", "a100"])
    with pytest.raises(SystemExit) as end:
        main()
    said = capsys.readouterr().out
    assert not end.value.code and "hours on 1 x a100" in said and "round1-reference" in said and not list(tmp_path.iterdir())
