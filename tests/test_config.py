"""Shipped configs parse; a mistake in a config or an override is one line that says what, where and what to do."""

from pathlib import Path

import pytest
import yaml
from pydantic import ValidationError

from insightv.config import Config, UserError
from insightv.config_file import load_config, save_config

CONFIGS = Path(__file__).parent.parent / "configs"


def written(folder: Path, text: str) -> Path:
    path = folder / "config.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def complaint(path: Path, *overrides: str) -> str:
    with pytest.raises(UserError) as caught:
        load_config(path, overrides)
    message = str(caught.value)
    assert message and "\n" not in message
    return message


SHIPPED = ("ablation", "demo", "laptop", "paper")


@pytest.mark.parametrize("name", SHIPPED[1:])
def test_a_shipped_config_parses(name: str) -> None:
    config = load_config(CONFIGS / f"{name}.yaml")
    assert config.systems.baseline in config.systems.rows
    assert {row for pair in config.systems.primary for row in pair} <= set(config.systems.rows)


def test_every_shipped_config_is_tested() -> None:
    assert {path.stem for path in CONFIGS.glob("*.yaml")} == set(SHIPPED)


def test_the_ablation_is_the_laptops_experiment_with_cells() -> None:
    ablation, laptop = (load_config(CONFIGS / f"{name}.yaml") for name in ("ablation", "laptop"))
    apart = {"run", "systems", "ablate"}
    assert ablation.model_dump(exclude=apart) == laptop.model_dump(exclude=apart)
    assert ablation.systems.model_dump(exclude={"rows", "primary"}) == laptop.systems.model_dump(exclude={"rows", "primary"})
    rows = {name: set(cell.rows) for name, cell in ablation.ablate.cells.items()}
    assert {row for pair in ablation.systems.primary for row in pair} <= rows["core"]
    assert {row for before, after, _ in ablation.ablate.contrasts for row in (before, after)} <= rows["core"] | rows["controls"]
    assert all(len(ablation.ablate.cells[name].seeds) >= 3 for name in ("core", "controls", "quarter", "half"))


def test_the_demo_has_what_its_promise_needs() -> None:
    config = load_config(CONFIGS / "demo.yaml")
    assert config.world is not None and not config.world.retrain_base
    assert set(config.systems.rows) == {"base", "single", "pair", "pair+dpo"}
    assert config.dpo.rounds == 2
    assert config.systems.reasoner.temperature == config.systems.answer.temperature == 0


def test_the_paper_config_holds_the_papers_numbers() -> None:
    config = load_config(CONFIGS / "paper.yaml")
    assert config.world is None
    assert (config.reasoner.epochs, config.reasoner.learning_rate) == (2, 5e-6)
    assert (config.summarizer.epochs, config.summarizer.learning_rate) == (1, 1e-5)
    assert (config.dpo.rounds, config.dpo.epochs, config.dpo.learning_rate, config.preference.max_pairs) == (3, 1, 5e-7, 15_000)
    assert config.reasoner.train == ("projector", "language")
    assert config.reasoner.max_length == config.summarizer.max_length == 12_288


def test_the_summary_parts_of_shipped_configs_add_up() -> None:
    for path in CONFIGS.glob("*.yaml"):
        parts = load_config(path).summary
        assert parts.optimal + parts.flawed + parts.own + parts.plain == pytest.approx(1), path


def test_an_empty_file_is_all_defaults(tmp_path: Path) -> None:
    assert load_config(written(tmp_path, "")) == Config()


def test_an_unknown_key_names_the_nearest_known_one(tmp_path: Path) -> None:
    assert "unknown key sed, did you mean seed?" in complaint(written(tmp_path, "sed: 1"))
    assert "unknown key generate.max_step, did you mean max_steps?" in complaint(written(tmp_path, "generate: {max_step: 3}"))
    assert "unknown key world.teacher.misperceptions, did you mean misperception?" in complaint(written(tmp_path, "world: {teacher: {misperceptions: 1}}"))
    assert "unknown key reasoner.lora.rank" in complaint(written(tmp_path, "reasoner: {lora: {rank: 4}}"))


def test_an_unknown_key_that_is_near_nothing_lists_what_is_known(tmp_path: Path) -> None:
    assert "unknown key local.zzz; known here: batch_size, dtype, threads" in complaint(written(tmp_path, "local: {zzz: 1}"))


def test_a_bad_value_names_its_place(tmp_path: Path) -> None:
    assert "generate.n: " in complaint(written(tmp_path, "generate: {n: 0}"))
    assert "dpo.reference: " in complaint(written(tmp_path, "dpo: {reference: other}"))
    assert "seed: " in complaint(written(tmp_path, "seed: tomorrow"))


def test_problems_come_from_a_world_or_from_files(tmp_path: Path) -> None:
    path = written(tmp_path, "world: {}\nproblems: {train: mine.jsonl}")
    assert complaint(path).endswith(
        "config.yaml: world makes the problems, so problems.train would not be read: take one of the two out, as by world: null or problems: {}"
    )
    assert load_config(path, ["world=null"]).problems.train == Path("mine.jsonl")
    assert load_config(path, ["problems={}"]).world is not None


def test_an_adapter_of_dpo_is_the_reasoners_or_is_refused(tmp_path: Path) -> None:
    path = written(tmp_path, "dpo: {lora: {r: 4}}")
    assert complaint(path).endswith("config.yaml: dpo.lora needs reasoner.lora: give the reasoner the same adapter, or train DPO in full by dpo.lora: null")
    assert complaint(path, "reasoner.lora={r: 8}").endswith("so give both the same r, alpha and dropout")
    for sound in ("reasoner.lora={r: 4}", "dpo.rounds=0", "dpo.lora=null"):
        load_config(path, [sound])
    # The adapter is merged, and DPO trains all weights.
    load_config(path, ["reasoner.lora={r: 4}", "dpo.lora=null"])


def test_overrides_reach_any_depth_and_win_over_the_file(tmp_path: Path) -> None:
    path = written(tmp_path, "generate: {n: 2, max_steps: 9}")
    config = load_config(path, ["generate.n=5", "dpo.sampling.temperature=0.8", "systems.rows=[base, pair]", "world.teacher.latency=0.5", "run=runs/other"])
    assert (config.generate.n, config.generate.max_steps) == (5, 9)
    assert config.dpo.sampling.temperature == 0.8
    assert config.systems.rows == ("base", "pair")
    assert config.world is not None and config.world.teacher.latency == 0.5
    assert config.run == Path("runs/other")


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("generate.n", "must read name=value"),
        ("seed.n=1", "seed is a value, not a section"),
        ("generate.m=1", "unknown key generate.m"),
        ("generate.n=[1", "generate.n=[1"),
    ],
)
def test_a_bad_override_is_said(tmp_path: Path, override: str, expected: str) -> None:
    assert expected in complaint(written(tmp_path, "seed: 3"), override)


@pytest.mark.parametrize(("text", "expected"), [("a: [", "not valid YAML"), ("- 1\n- 2", "must hold settings"), ("just words", "must hold settings")])
def test_a_file_that_holds_no_settings_is_said(tmp_path: Path, text: str, expected: str) -> None:
    path = written(tmp_path, text)
    message = complaint(path)
    assert expected in message and str(path) in message


def test_bytes_that_are_no_text_are_said(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_bytes(b"\xff\xfe\x00")
    assert "not valid YAML" in complaint(path)


def test_a_path_without_a_config_is_said(tmp_path: Path) -> None:
    assert "no config at" in complaint(tmp_path / "missing.yaml")
    assert str(tmp_path) in complaint(tmp_path)


def test_yaml_cannot_make_objects(tmp_path: Path) -> None:
    assert "not valid YAML" in complaint(written(tmp_path, "run: !!python/object/apply:os.getcwd []"))


SHIPPED = ("ablation", "demo", "laptop", "paper")


@pytest.mark.parametrize("name", SHIPPED[1:])
def test_the_saved_config_is_the_same_config(tmp_path: Path, name: str) -> None:
    config = load_config(CONFIGS / f"{name}.yaml")
    save_config(config, tmp_path / "resolved.yaml")
    assert load_config(tmp_path / "resolved.yaml") == config
    assert set(yaml.safe_load((tmp_path / "resolved.yaml").read_text(encoding="utf-8"))) == set(Config.model_fields)


def test_a_config_is_frozen() -> None:
    with pytest.raises(ValidationError):
        Config().seed = 1  # type: ignore[misc]  # the very thing that must fail
