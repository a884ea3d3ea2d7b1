"""What stays at home: addresses, keys and folders are taken out, and nothing else is."""

from pathlib import Path

import pytest
import yaml

from insightv.config import Config
from insightv.config_file import load_config
from insightv.publish.redact import clean, machine_text, redactor, settings

KEY = "sk-ant-0123456789abcdef0123"


def config(**more: object) -> Config:
    role = {
        "url": "http://me:pa55word@gpu-box.internal:8000/v1",
        "replicas": ["https://node-7.acme/v1"],
        "model": "/data/models/Qwen2-VL-72B",
        "api_key_env": "ACME_KEY",
    }
    return Config.model_validate({"models": {"generator": role, "judge": role, "scorer": {**role, "url": "http://teacher/v1", "model": "teacher"}}, **more})


def test_a_published_config_loads_again_and_says_nothing_of_where_it_ran(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACME_KEY", "the key itself")
    extra = {
        "url": "http://gpu-box.internal:8000/v1",
        "extra": {"api_key": KEY, "headers": {"Authorization": f"Bearer {KEY}"}, "proxy": "http://10.1.2.3:3128"},
    }
    given = config(
        run=tmp_path / "private" / "run",
        journal=tmp_path / "private" / "journal",
        problems={"train": tmp_path / "private" / "train" / "problems.jsonl"},
        reasoner={"arguments": {"hub_token": KEY, "logging_dir": "/mnt/secret/logs", "deepspeed": "conf/ds.json", "weight_decay": 0.5}},
        dpo={"server": f"serve {{path}} --port {{port}} --api-key {KEY}"},
        prompts={"reasoner": "{question}\n/no_think Look at a/b and 12:30, as https://example.org/rules says.", "direct": "{question} the key itself"},
    )
    models = given.models.model_copy(update={"judge": given.models.judge.model_copy(update=extra), "base": tmp_path / "private" / "base-7b"})
    given = given.model_copy(update={"models": models})
    told = yaml.safe_dump(settings(given, tmp_path / "private" / "run"))
    for secret in (KEY, "gpu-box", "node-7", "pa55word", "10.1.2.3", "ACME_KEY", "the key itself", "private", "/mnt", "/data", str(tmp_path)):
        assert secret not in told
    (tmp_path / "again.yaml").write_text(told, encoding="utf-8")
    again = load_config(tmp_path / "again.yaml")
    assert again.prompts.reasoner == given.prompts.reasoner
    assert again.models.generator.model == "Qwen2-VL-72B" and again.models.scorer.model == "teacher"
    assert again.reasoner.arguments == {"logging_dir": "logs", "deepspeed": "conf/ds.json", "weight_decay": 0.5}
    assert (again.models.base, again.problems.train, again.dpo.server) == (Path("base-7b"), Path("problems.jsonl"), None)


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("POST http://gpu-box.internal:8000/v1/chat/completions: 500", "POST [removed] 500"),
        ("cannot connect to host GPU-box.internal:8000 ssl:default", "cannot connect to host [removed] ssl:default"),
        ("see https://other.example/a?b=c, then go on", "see [removed] then go on"),
        ("NODE-7.acme says no", "[removed] says no"),
        ("no route to 192.168.0.7:80", "no route to [removed]"),
        ("node7.cluster.local:443 is gone", "[removed] is gone"),
        ('{"model":"/data/models/Qwen2-VL-72B@1"}', '{"model":"Qwen2-VL-72B@1"}'),
        (f"Incorrect API key provided: {KEY}", "Incorrect API key provided: [removed]"),
        ("'/home/me/my run/x.png' and ~/data/y.png", "'my run/x.png' and y.png"),
    ],
)
def test_a_machines_message_keeps_its_words_alone(text: str, left: str) -> None:
    assert machine_text(text, redactor(config(), Path("runs/x"))) == left


@pytest.mark.parametrize(
    "text",
    [
        "Qwen/Qwen2-VL-72B@2024-09",
        "and/or 3/4, km/h",
        "the clock shows 12:30 o'clock",
        "</thoughts> <a/>",
        '{"position":15,"value":100}',
        "version 1.2.3",
        "teacher",
    ],
)
def test_what_names_no_place_stays(text: str) -> None:
    redact = redactor(config(), Path("runs/x"))
    assert machine_text(text, redact) == text == clean(text, redact)


def test_folders_of_the_run_are_cut_wherever_they_stand(tmp_path: Path) -> None:
    run = tmp_path / "my project" / "run"
    redact = redactor(config(run=run), run)
    assert (
        redact(f"{run}/images/x.png is broken, see {run} and {tmp_path / 'my project'}2")
        == f"run/images/x.png is broken, see run and {tmp_path / 'my project'}2"
    )


def test_a_models_own_tokens_are_no_secrets() -> None:
    given = {"bos_token": "<s>", "name_or_path": "/data/models/x", "eos_token": "</s>"}
    assert clean(given, str, secrets=False) == given | {"name_or_path": "x"}
