"""Publish a run: gather what is wanted, lay it out beside the run with its cards, and bring it to its place."""

import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import orjson
import yaml

from insightv import __version__
from insightv.config import Config, UserError
from insightv.evaluation.figures import SplitTable
from insightv.files import explained, replacing, try_lock
from insightv.loop import plan
from insightv.plan import Plan
from insightv.publish import cards, push
from insightv.publish.gather import Item, chains_behind, choose, finished, sources, tables
from insightv.publish.redact import Redact, clean, machine_text, redactor, settings
from insightv.showing import saved
from insightv.stages.context import base_path
from insightv.store import Run, read_manifest

HUB = "hub:"
_CACHED = re.compile(r"models--([^/]+?)--([^/]+)/snapshots/")


def publish(
    run: Path,
    dest: str,
    what: Sequence[str] = (),
    *,
    name: str = "",
    public: bool = False,
    licence: str = "",
    language: str = "en",
    base: str = "",
    dry_run: bool = False,
    endpoint: str | None = None,
) -> list[dict[str, object]]:
    """Publish stages of a run to a folder, or to the Hub where `dest` is `hub:OWNER/NAME`; returns a row for each file.

    Each stage gets a folder of its own, `dest`/<stage>, or a repository, OWNER/NAME-<stage>. With `dry_run` all is laid out in the run's
    `.work/publish`, cards included, and goes nowhere. What cannot be published is a `UserError` before anything is written at `dest`.
    `base` names the base model on the Hub, `endpoint` another Hub than the usual one.
    """
    config = saved(run)
    with explained(run):
        lock = try_lock(run / ".lock")
    if lock is None:
        raise UserError(f"{run} is in use by another process; publish it once that has ended")
    with lock:
        steps = plan(config)
        # What the run was made from may be elsewhere by now.
        steps.recall(Run(run), steps.steps)
        items = choose(run, config, steps, what)
        hub = dest.removeprefix(HUB) if dest.startswith(HUB) else ""
        places = {item.stage: f"{hub}-{item.stage}" if dest.startswith(HUB) else item.stage for item in items}
        if dest.startswith(HUB):
            push.check_names([*places.values(), *([base] if base else [])])
        for item in items if not dest.startswith(HUB) else ():
            push.check_replaceable(Path(dest) / item.stage)
        api = push.log_in(endpoint) if hub and not dry_run else None
        title, base = name or hub.rpartition("/")[2] or run.resolve().name, base or _cached(config)
        about = cards.About(config, settings(config, run), redactor(config, run), title, places, bool(hub), licence, language, base)
        folder = run / ".work" / "publish"
        _lay_out(folder, run, steps, items, about)
        rows = [row for item in items for row in _listed(folder / item.stage, f"{HUB}{places[item.stage]}" if hub else str(Path(dest) / item.stage))]
        if not dry_run:
            for item in items:
                if api:
                    message = f"Publish {item.stage} {item.manifest['hash'][:12]} with insightv {__version__}"
                    push.upload(api, folder / item.stage, places[item.stage], item.kind, public=public, message=message)
                else:
                    push.place(folder / item.stage, Path(dest) / item.stage)
            shutil.rmtree(folder)
    return rows


def _lay_out(folder: Path, run: Path, steps: Plan, items: Sequence[Item], about: cards.About) -> None:
    """Put what is published of each stage, with its card, into a folder of its own: large files as links."""
    data = [item for item in items if item.kind == "data"]
    origins = sources(run, about.config, data)
    results = tables(run, about.config, steps) if len(data) < len(items) else []
    with explained(folder):
        shutil.rmtree(folder, ignore_errors=True)
        for item in items:
            place = folder / item.stage
            place.mkdir(parents=True)
            for name in item.files:
                _take(item, name, place / name, about.redact)
            card = _data_card(run, steps, item, about, origins) if item.kind == "data" else _model_card(run, steps, item, about, results)
            _write(place / "README.md", card.encode())
            _write(place / "insightv.yaml", yaml.safe_dump(dict(about.published), sort_keys=False, allow_unicode=True).encode())
            digests = {path.name: push.sha256(path) for path in sorted(place.iterdir())}
            told = clean(dict(item.manifest), about.redact) | {"published": {"insightv": __version__, "files": digests}}
            _write(place / "manifest.json", orjson.dumps(told, option=orjson.OPT_SORT_KEYS | orjson.OPT_INDENT_2))


def _take(item: Item, name: str, target: Path, redact: Redact) -> None:
    """An output as it is, by a link, unless it is a text in which something has to go."""
    source = item.folder / name
    if source.is_symlink() or push.sha256(source) != item.manifest["outputs"][name]:
        raise UserError(f"{source} is not what the stage made; remove {item.folder} and run the config again")
    if name.endswith(".jsonl"):
        with source.open(encoding="utf-8") as lines, replacing(target) as file:
            file.writelines(machine_text(line, redact).encode() for line in lines)
    elif name.endswith("config.json") and (told := clean(read := orjson.loads(source.read_bytes()), redact, secrets=False)) != read:
        _write(target, orjson.dumps(told, option=orjson.OPT_INDENT_2))
    else:
        target.symlink_to(source.resolve())


def _data_card(run: Path, steps: Plan, item: Item, about: cards.About, origins: dict[str, list[dict[str, Any]]]) -> str:
    made = chains_behind(run, about.config, steps, item)
    known = "truth" in steps.steps and finished(run, steps, "truth") and any(stage.author == "teacher" for stage in made)
    return cards.data_card(about, item, made, origins[item.stage], read_manifest(run / "truth")["summary"] if known else {})


def _model_card(run: Path, steps: Plan, item: Item, about: cards.About, results: Sequence[SplitTable]) -> str:
    behind = {need: read_manifest(run / need) for need in steps.steps[item.stage].needs}
    folders = (item.folder, base_path(about.config, Run(run)))
    described: dict[str, Any] = next((orjson.loads((folder / "config.json").read_bytes()) for folder in folders if (folder / "config.json").is_file()), {})
    return cards.model_card(about, item, behind, results, ", ".join(described.get("architectures") or ["unknown"]))


def _cached(config: Config) -> str:
    """The base's name on the Hub, where its folder lies in the Hub's cache and so tells it."""
    found = _CACHED.search(f"{config.models.base}/") if config.models.base else None
    return f"{found[1]}/{found[2]}" if found else ""


def _write(path: Path, data: bytes) -> None:
    with replacing(path) as file:
        file.write(data)


def _listed(folder: Path, target: str) -> list[dict[str, object]]:
    return [{"to": target, "file": path.name, "bytes": path.stat().st_size} for path in sorted(folder.iterdir())]
