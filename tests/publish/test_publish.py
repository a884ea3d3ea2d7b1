"""A small run is published: what lies there loads again, says how it was made, and holds nothing that stays at home."""

import hashlib
import io
import re
import shutil
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import orjson
import pytest
import torch
import yaml
from datasets import load_dataset
from markdown_it import MarkdownIt
from PIL import Image

from insightv import cli, loop, verbs
from insightv.config import Config, SplitsConfig, UserError
from insightv.config_file import load_config, save_config
from insightv.models import vlm
from insightv.models.chat import Image as Picture
from insightv.models.chat import Message, Text
from insightv.plan import Plan
from insightv.publish import cards, gather, push, write
from insightv.publish.redact import redactor, settings
from insightv.stages.context import SHIPPED_BASE
from insightv.store import Run

SMALL = Path(__file__).parent.parent / "small.yaml"
DATA = ("reasoning-data", "summary-data", "round1-data")
MODELS = ("dpo1", "summarizer")
WEIGHTS = {"config.json", "generation_config.json", "processor_config.json", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja"}
CARD = {"README.md", "insightv.yaml", "manifest.json"}


@pytest.fixture(scope="module")
def run(in_this_process: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run: the reasoner and its DPO as adapters, the summarizer in full."""
    folder = tmp_path_factory.mktemp("publish") / "run"
    lora = "{r: 2, alpha: 4, dropout: 0.0}"
    more = [f"run={folder}", "parallel=1", "systems.rows=[base, pair+dpo]", "systems.splits=[test]", f"reasoner.lora={lora}", f"dpo.lora={lora}"]
    verbs.run(load_config(SMALL, more))
    return folder


@pytest.fixture(scope="module")
def published(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("published")
    write.publish(run, str(folder))
    return folder


@pytest.fixture
def again(run: Path, tmp_path: Path) -> Path:
    """A copy of the run, to be changed."""
    return shutil.copytree(run, tmp_path / "run")


def content(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def front(card: str) -> dict[str, Any]:
    _, matter, _ = re.split(r"^---\n", card, maxsplit=2, flags=re.MULTILINE)
    read: dict[str, Any] = yaml.safe_load(matter)
    return read


def test_only_what_is_listed_is_published(run: Path, published: Path) -> None:
    assert sorted(path.name for path in published.iterdir()) == sorted(DATA + MODELS)
    rows = {"train-00000.parquet", "manifest.jsonl", "rejections.jsonl"}
    expected = {**dict.fromkeys(DATA, rows), "dpo1": {"adapter_model.safetensors", "adapter_config.json"}, "summarizer": WEIGHTS | {"model.safetensors"}}
    assert {name: {path.name for path in (published / name).iterdir()} for name in expected} == {name: files | CARD for name, files in expected.items()}
    assert (run / "summarizer" / "log.jsonl").is_file() and not (run / ".work" / "publish").exists()
    for name in expected:
        digests = orjson.loads((published / name / "manifest.json").read_bytes())["published"]["files"]
        assert digests == {path: hashlib.sha256(data).hexdigest() for path, data in content(published / name).items() if path != "manifest.json"}
        assert not any(path.is_symlink() for path in (published / name).iterdir())


@pytest.mark.parametrize("name", DATA)
def test_a_data_set_loads_with_its_images(published: Path, tmp_path: Path, name: str) -> None:
    rows = load_dataset(str(published / name), split="train", cache_dir=str(tmp_path))
    manifest = [orjson.loads(line) for line in (published / name / "manifest.jsonl").read_bytes().splitlines()]
    assert rows["id"] == [line["id"] for line in manifest]
    assert rows[0]["images"][0].size == (64, 64)
    assert {part["type"] for part in rows[0]["prompt"][0]["content"]} == {"image", "text"}
    told = front((published / name / "README.md").read_text(encoding="utf-8"))
    assert told["dataset_info"]["splits"] == [{"name": "train", "num_bytes": told["dataset_info"]["dataset_size"], "num_examples": len(rows)}]
    assert [column["name"] for column in told["dataset_info"]["features"]] == rows.column_names
    assert told["size_categories"] == ["n<1K"] and told["license"] == "unknown" and ("dpo" in told["tags"]) == (name == "round1-data")


def test_models_load_with_the_same_weights(run: Path, published: Path) -> None:
    assert vlm.load(published / "summarizer").identity == vlm.weights_hash(run / "summarizer") == vlm.weights_hash(published / "summarizer")
    assert vlm.load(SHIPPED_BASE, adapter=published / "dpo1").identity == vlm.weights_hash(SHIPPED_BASE, run / "dpo1")


@pytest.mark.parametrize("name", MODELS)
def test_the_cards_code_runs_and_writes_what_the_run_would(
    run: Path, published: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    card = (published / name / "README.md").read_text(encoding="utf-8")
    found = re.search(r"^```python\n(.*?)^```$", card, re.MULTILINE | re.DOTALL)
    assert found
    shutil.copytree(published / name, tmp_path / name)
    picture = io.BytesIO()
    Image.new("RGB", (64, 64), "red").save(picture, "PNG")
    (tmp_path / "picture.png").write_bytes(picture.getvalue())
    monkeypatch.chdir(tmp_path)
    exec(found[1].replace('"the base model\'s folder"', repr(str(SHIPPED_BASE))), {})
    said = capsys.readouterr().out.strip()

    adapter = name == "dpo1"
    own = vlm.load(SHIPPED_BASE, adapter=published / name) if adapter else vlm.load(published / name)
    config = load_config(run / "config.yaml")
    asked = (config.prompts.reasoner if adapter else config.prompts.summarizer).replace("{question}", "How many red squares are there?")
    messages = [Message("user", (Picture("x"), Text(asked.replace("{chain}", "what the reasoner wrote"))))]
    given = vlm.encode(own, messages, lambda _: picture.getvalue())
    ids = torch.tensor([given.input_ids])
    limit = (config.systems.reasoner if adapter else config.systems.answer).max_tokens
    tokens = own.model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=limit, do_sample=False, **given.pixels)
    assert said == vlm.detokenize(own, tokens[0, ids.shape[1] :].tolist()).strip() != ""


def test_a_card_tells_how_its_rows_were_made(run: Path, published: Path) -> None:
    card = (published / "reasoning-data" / "README.md").read_text(encoding="utf-8")
    manifest = orjson.loads((run / "reasoning-data" / "manifest.json").read_bytes())
    config = load_config(run / "config.yaml")
    assert "The generator, judge, scorer are simulated." in card and "2411.14432" in card
    assert f"| judge | teacher@{config.models.judge.revision} | 0.2 | 0.7 | 256 |" in card
    assert all(f"| `{reason}` | {count} |" in card for reason, count in manifest["summary"]["rejections"].items())
    assert manifest["hash"] in card and config.prompts.summarizer in card and "You are a strict judge" in card
    assert "| world/train | not stated |" in card
    model = (published / "dpo1" / "README.md").read_text(encoding="utf-8")
    assert front(model)["library_name"] == "peft" and "| pair+dpo |" in model and "LlavaForConditionalGeneration" in model
    loaded = load_config(published / "dpo1" / "insightv.yaml")
    assert loaded.model_copy(update={"run": config.run}) == config


def test_the_same_run_gives_the_same_bytes_and_replaces_what_it_put_there(run: Path, published: Path, tmp_path: Path) -> None:
    whole = content(published)
    write.publish(run, str(tmp_path / "out"))
    assert content(tmp_path / "out") == whole
    write.publish(run, str(tmp_path / "out"), ["round1-data"], licence="cc-by-4.0", name="Mine")
    told = front((tmp_path / "out" / "round1-data" / "README.md").read_text(encoding="utf-8"))
    assert (told["license"], told["pretty_name"]) == ("cc-by-4.0", "Mine: round1-data")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == sorted(DATA + MODELS)


def add(folder: Path) -> None:
    (folder / "notes.txt").write_text("mine", encoding="utf-8")


def edit(folder: Path) -> None:
    with (folder / "README.md").open("a", encoding="utf-8") as file:
        file.write("mine\n")


def link(folder: Path) -> None:
    folder.rename(folder.with_name("else"))
    folder.symlink_to("else")


@pytest.mark.parametrize(
    ("change", "complaint"),
    [(add, r"notes\.txt in it was not put there"), (edit, r"README\.md in it was changed since"), (link, "is no folder")],
)
def test_what_is_not_ours_is_never_replaced(run: Path, tmp_path: Path, change: Callable[[Path], None], complaint: str) -> None:
    write.publish(run, str(tmp_path), ["round1-data"])
    change(tmp_path / "round1-data")
    before = content(tmp_path)
    with pytest.raises(UserError, match=complaint):
        write.publish(run, str(tmp_path), ["round1-data", "reasoning-data"])
    assert content(tmp_path) == before


def test_a_run_is_never_its_own_destination(again: Path) -> None:
    before = content(again)
    with pytest.raises(UserError, match="was not put there by insightv publish"):
        write.publish(again, str(again), ["round1-data"])
    assert content(again) == before


def test_what_was_not_made_with_the_config_is_not_published(again: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"nothing to publish called 'dpo2' in .*; there are reasoning-data, "):
        write.publish(again, str(tmp_path / "out"), ["dpo2"])
    (again / "round1-data" / "rejections.jsonl").write_text("{}\n", encoding="utf-8")
    with pytest.raises(UserError, match=r"rejections\.jsonl is not what the stage made"):
        write.publish(again, str(tmp_path / "out"), ["round1-data"])
    save_config(load_config(again / "config.yaml", ["summarizer.max_steps=4"]), again / "config.yaml")
    with pytest.raises(UserError, match="run: summarizer is not done with the run's config"):
        write.publish(again, str(tmp_path / "out"))
    with pytest.raises(UserError, match="no run at"):
        write.publish(tmp_path / "none", str(tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_no_address_or_folder_is_in_any_text(again: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACME_KEY", "an entirely private key")
    url = "http://me:pa55word@gpu-box.internal:8000/v1"
    to = [
        f"models.{role}.{setting}"
        for role in ("generator", "judge", "scorer")
        for setting in (f"url={url}", "api_key_env=ACME_KEY", "replicas=[http://gpu-box-2/v1]")
    ]
    save_config(load_config(again / "config.yaml", [f"run={again}", *to]), again / "config.yaml")
    write.publish(again, str(tmp_path / "out"), ["summarizer", "dpo1"])
    path, manifest = again / "reasoning-data" / "rejections.jsonl", again / "reasoning-data" / "manifest.json"
    failed = f"{url} at gpu-box.internal refused an entirely private key, see {again}/journal and /var/log/acme/x.log"
    path.write_bytes(orjson.dumps({"chain_id": "c", "detail": failed, "reason": "failed"}) + b"\n")
    told = orjson.loads(manifest.read_bytes())
    told["outputs"]["rejections.jsonl"] = push.sha256(path)
    manifest.write_bytes(orjson.dumps(told))
    write.publish(again, str(tmp_path / "out"), ["reasoning-data"])
    texts = {name: data for name, data in content(tmp_path / "out").items() if not name.endswith((".parquet", ".safetensors"))}
    assert len(texts) == 5 + 9 + 4
    for name, data in texts.items():
        for secret in ("gpu-box", "pa55word", "ACME", "entirely private", str(tmp_path), str(Path.cwd()), str(Path.home()) + "/", "/var"):
            assert secret.encode() not in data, (name, secret)
    [line] = texts["reasoning-data/rejections.jsonl"].splitlines()
    assert orjson.loads(line)["detail"] == "[removed] at [removed] refused [removed], see run/journal and x.log"
    assert b"simulated" not in texts["summarizer/README.md"]


def hostile_card(run: Path, name: str) -> str:
    config = load_config(run / "config.yaml")
    steps = loop.plan(config)
    steps.recall(Run(run), steps.steps)
    [item] = gather.choose(run, config, steps, ["reasoning-data"])
    judge = config.models.judge.model_copy(update={"model": name})
    prompts = config.prompts.model_copy(update={"reasoner": f"{{question}} {name}"})
    config = config.model_copy(update={"models": config.models.model_copy(update={"judge": judge}), "prompts": prompts})
    about = cards.About(config, settings(config, run), redactor(config, run), name, {item.stage: name}, False, "", "en", "")
    made = [replace(stage, author=name) for stage in gather.chains_behind(run, config, steps, item)]
    return cards.data_card(about, item, made, [{"name": name, "licence": name, "problems": 1, "rows": 1}], {})


@pytest.mark.parametrize(
    "name",
    [
        "a\n---\nlicense: mit\n---\n# Owned\n",
        "</details><script>alert(1)</script><img src=x onerror=alert(1)>",
        "[click](https://evil.example) ![x](http://evil.example/x.png) <https://evil.example> www.evil.example https://evil.example",
        "| a | b |\n| - | - |\n```\n````\n# Owned",
        "*bold* _it_ ~~gone~~ `code` $x$ {{ config }} {% raw %} \\",
        "'\"; import os\u202e\x00\x1b[31m: - {a: b}",
    ],
)
def test_a_name_is_nothing_but_a_name(run: Path, name: str) -> None:
    card, plain = hostile_card(run, name), hostile_card(run, "plain name")
    assert front(card) | {"pretty_name": "", "license_name": ""} == front(plain) | {"pretty_name": "", "license_name": ""}
    parser = MarkdownIt("gfm-like", {"linkify": False})

    def shape(text: str) -> list[tuple[str, str]]:
        body = re.split(r"^---\n", text, maxsplit=2, flags=re.MULTILINE)[2]
        tokens = [part for token in parser.parse(body) for part in (token, *(token.children or ()))]
        return [(token.type, token.tag) for token in tokens if token.type not in ("text", "text_special", "softbreak")]

    assert shape(card) == shape(plain)
    assert not re.search(r"(?<!\S)(https?://|www\.)evil", re.sub(r"^(`{3,}).*?^\1$", "", card.partition("\n# ")[2], flags=re.MULTILINE | re.DOTALL))


def test_licences_come_from_what_an_import_left(run: Path, tmp_path: Path) -> None:
    config = load_config(run / "config.yaml")
    [item] = gather.choose(run, config, recalled(config, run), ["reasoning-data"])
    given = config.model_copy(update={"world": None, "problems": SplitsConfig(train=tmp_path / "problems.jsonl")})
    told: dict[str, Any] = {"sources": [{"name": "world/train", "licence": "CC-BY-4.0", "problems": 3, "rejections": 0}, {"name": "other", "licence": None}, 3]}
    (tmp_path / "manifest.json").write_bytes(orjson.dumps(told))
    [source] = gather.sources(run, given, [item])[item.stage]
    assert (source["name"], source["licence"], source["rows"]) == ("world/train", "CC-BY-4.0", item.manifest["summary"]["rows"])
    (tmp_path / "manifest.json").unlink()
    [source] = gather.sources(run, given, [item])[item.stage]
    assert source["licence"] == ""


def recalled(config: Config, run: Path) -> Plan:
    steps = loop.plan(config)
    steps.recall(Run(run), steps.steps)
    return steps


@pytest.mark.parametrize(
    ("stated", "front_matter"),
    [
        (["CC-BY-4.0"], {"license": "cc-by-4.0"}),
        (["mit", "cc0-1.0"], {"license": ["cc0-1.0", "mit"]}),
        (["mit", ""], {"license": "unknown"}),
        (["ACME: ask\n- us"], {"license": "other", "license_name": "acme-ask-us"}),
    ],
)
def test_the_front_matter_has_the_hubs_names_of_licences(stated: list[str], front_matter: dict[str, Any]) -> None:
    assert cards._licence(stated) == front_matter


def test_a_dry_run_sends_nothing_and_leaves_the_cards(
    again: Path, tmp_path: Path, hub: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setattr(sys, "argv", ["insightv", "publish", str(again), "hub:me/mine", "--what", "round1-data, summarizer", "--dry-run"])
    with pytest.raises(SystemExit) as end:
        cli.main()
    out = capsys.readouterr().out
    assert not end.value.code and "hub:me/mine-round1-data" in out and "model.safetensors" in out and "nothing was sent" in out
    assert (again / ".work" / "publish" / "summarizer" / "README.md").is_file() and not hub.files
    assert "load_dataset('me/mine-round1-data'" in (again / ".work" / "publish" / "round1-data" / "README.md").read_text(encoding="utf-8")


def test_the_hub_gets_a_private_repository_for_each_stage_and_only_once_what_is_the_same(run: Path, published: Path, hub: Any) -> None:
    def send(**more: Any) -> None:
        write.publish(run, "hub:me/mine", ["round1-data", "dpo1"], base="me/base", endpoint=hub.url, **more)

    hub.refused = {2}
    with pytest.raises(UserError, match=r"^me/mine-dpo1: the upload ended with .*; run the same command to go on$"):
        send()
    assert list(hub.files) == ["datasets/me/mine-round1-data", "models/me/mine-dpo1"] and not hub.files["models/me/mine-dpo1"]
    send()
    assert hub.private == dict.fromkeys(hub.files, True) and hub.tokens == {"Bearer hf_ofatest"}
    assert len(hub.puts) == 3 and hub.commits == list(hub.files)
    for key, files in hub.files.items():
        name = key.partition("mine-")[2]
        whole = content(published / name)
        assert files.keys() == whole.keys()
        assert {path for path in files if files[path] != whole[path]} == {"README.md", "manifest.json"}
        assert orjson.loads(files["manifest.json"])["published"]["files"]["README.md"] == hashlib.sha256(files["README.md"]).hexdigest()
    told = front(hub.files["models/me/mine-dpo1"]["README.md"].decode())
    assert (told["base_model"], told["datasets"]) == ("me/base", ["me/mine-round1-data"])

    hub.files["datasets/me/mine-round1-data"] |= {"train-00001.parquet": b"stale", "notes.md": b"kept"}
    send()
    assert len(hub.puts) == 3 and hub.commits == [*list(hub.files), "datasets/me/mine-round1-data"]
    assert {"notes.md"} == hub.files["datasets/me/mine-round1-data"].keys() - content(published / "round1-data").keys()


def test_a_public_repository_gets_nothing_that_was_to_be_private(run: Path, hub: Any) -> None:
    hub.private["datasets/me/mine-round1-data"], hub.files["datasets/me/mine-round1-data"] = False, {}
    with pytest.raises(UserError, match="mine-round1-data is there already and public; pass --public"):
        write.publish(run, "hub:me/mine", ["round1-data"], endpoint=hub.url)
    assert not hub.commits and not hub.puts
    write.publish(run, "hub:me/mine", ["round1-data"], endpoint=hub.url, public=True)
    assert hub.commits == ["datasets/me/mine-round1-data"]


def test_the_clients_usual_way_of_uploading_serves_as_well(run: Path, published: Path, hub: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    # In batches, with the library that moves large files at hand; these are to go to servers that are not here.
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", False)
    hub.suffixes = (".none",)
    for _ in range(2):
        write.publish(run, "hub:me/mine", ["round1-data"], endpoint=hub.url)
    assert hub.commits == ["datasets/me/mine-round1-data"]
    assert hub.files["datasets/me/mine-round1-data"].keys() == content(published / "round1-data").keys()


@pytest.mark.parametrize("dest", ["hub:", "hub:me", "hub:me/a/b", "hub:me/../x", "hub:datasets/me--x/y", "hub:me/x y"])
def test_a_name_that_the_hub_would_not_take_is_said_beforehand(run: Path, dest: str) -> None:
    with pytest.raises(UserError, match="cannot be a name on the Hub"):
        write.publish(run, dest, ["round1-data"])


def test_without_a_token_the_way_to_one_is_said(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(tmp_path / "none"))
    with pytest.raises(UserError, match="run `hf auth login`"):
        write.publish(run, "hub:me/mine", ["round1-data"])
