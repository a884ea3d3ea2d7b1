"""Cards of data sets and models: Markdown with YAML front matter; same run, same bytes.

Whatever stands in a template's braces is escaped, unless a function here has made it safe: no name of a source or model can form a heading, a link,
HTML or a line of the front matter.
"""

import html
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from math import isnan
from shlex import quote
from typing import Any

import pyarrow.parquet as pq
import yaml
from datasets import DatasetInfo, Features, SplitDict, SplitInfo
from datasets.info import DatasetInfosDict
from huggingface_hub import DatasetCardData, ModelCardData
from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from insightv import __version__, prompts
from insightv.config import Config
from insightv.evaluation.compare import sentence
from insightv.evaluation.figures import SplitTable
from insightv.evaluation.statistics import Rate
from insightv.publish.gather import Item, Made, rows_of, simulated
from insightv.publish.redact import ROLES, Redact, clean

KNOWN_LICENCES = {
    *("apache-2.0", "mit", "bsd-2-clause", "bsd-3-clause", "gpl-3.0", "lgpl-3.0", "agpl-3.0", "odc-by", "odbl", "pddl", "openrail", "unknown", "other"),
    *("cc0-1.0", "cc-by-2.0", "cc-by-3.0", "cc-by-4.0", "cc-by-sa-3.0", "cc-by-sa-4.0", "cc-by-nc-2.0", "cc-by-nc-3.0", "cc-by-nc-4.0"),
    *("cc-by-nc-sa-4.0", "cc-by-nd-4.0", "cc-by-nc-nd-4.0", "gemma", "llama3.1", "llama3.2"),
}
"""Names that the Hub knows a licence by; any other is `other` with its name beside it."""

SIZES = ((10**3, "n<1K"), (10**4, "1K<n<10K"), (10**5, "10K<n<100K"), (10**6, "100K<n<1M"), (10**7, "1M<n<10M"))
_TAGS = ["insight-v", "visual-reasoning"]
_MARKED = re.compile(r"[\\`*_{}\[\]|~$#]")
_INSTRUCTIONS = {"Generator": prompts.GENERATOR_INSTRUCTION, "Judge": prompts.JUDGE_INSTRUCTION, "Scorer": prompts.SCORER_INSTRUCTION}


@dataclass(frozen=True)
class About:
    """What all cards of one publication say."""

    config: Config
    """The run's own, with secrets."""
    published: Mapping[str, Any]
    """The config as it is published."""
    redact: Redact
    title: str
    repos: Mapping[str, str]
    """Stage -> where it is published: a name on the Hub, or a folder's."""
    on_hub: bool
    licence: str
    language: str
    base: str
    """Name of the base model on the Hub; empty if unknown."""


def data_card(about: About, item: Item, made: Sequence[Made], sources: Sequence[Mapping[str, Any]], truth: Mapping[str, Any]) -> str:
    """The card of a data set; `truth` is what the world measured of its teacher's chains, or empty."""
    shards = [item.folder / name for name in item.files if name.endswith(".parquet")]
    parquets = [pq.ParquetFile(shard).metadata for shard in shards]
    rows = sum(parquet.num_rows for parquet in parquets)
    size = sum(parquet.row_group(place).total_byte_size for parquet in parquets for place in range(parquet.num_row_groups))
    split = SplitDict({"train": SplitInfo("train", num_bytes=size, num_examples=rows)})
    features = Features.from_arrow_schema(pq.read_schema(shards[0]))
    info = DatasetInfo(features=features, splits=split, dataset_size=size, download_size=sum(shard.stat().st_size for shard in shards))
    data = DatasetCardData(
        pretty_name=_line(f"{about.title}: {item.stage}"),
        language=[about.language],
        **_licence([about.licence] if about.licence else [str(source["licence"]) for source in sources]),
        task_categories=["image-text-to-text"],
        size_categories=[next((name for most, name in SIZES if rows < most), "n>10M")],
        tags=[*_TAGS, *(["preference", "dpo"] if "rejected" in features else []), "synthetic"],
        configs=[{"config_name": "default", "data_files": [{"split": "train", "path": "train-*.parquet"}]}],
    )
    DatasetInfosDict({"default": info}).to_dataset_card_data(data)
    chains: set[str] = set()
    kept: Counter[int] = Counter()
    for row in rows_of(item):
        for chain in row["chains"].values():
            if chain["chain_id"] not in chains and chain["score"] and chain["score"]["value"] is not None:
                kept[chain["score"]["value"]] += 1
            chains.add(chain["chain_id"])
    summary = item.manifest["summary"]
    facts = {"rows": rows, "made": made, "sources": sources, "truth": truth, "summary": summary, "chains": len(chains), "columns": list(features)}
    return _render("data.md", data, about, item, **facts, histogram=_histogram(made, kept), cost=_cost(about, made))


def model_card(about: About, item: Item, behind: Mapping[str, Mapping[str, Any]], tables: Sequence[SplitTable], architecture: str) -> str:
    """The card of a model; `behind` are the manifests of the stages that it was made from, by name."""
    data_sets = [name for name in behind if name.endswith("-data")]
    data = ModelCardData(
        base_model=about.base or None,
        language=[about.language],
        **(_licence([about.licence]) if about.licence else {}),
        library_name="peft" if "adapter_config.json" in item.files else "transformers",
        pipeline_tag="image-text-to-text",
        tags=[*_TAGS, *(["dpo"] if item.stage.startswith("dpo") else [])],
        datasets=[about.repos[name] for name in data_sets if name in about.repos and about.on_hub] or None,
    )
    agents = about.config.prompts
    shown = {
        **dict.fromkeys(("summarizer", "summarizer-high", "summarizer-refreshed"), ("summarizer", "direct")),
        **dict.fromkeys(("single", "single-fair"), ("single",)),
        "multi-turn": ("reasoner", "answer_turn"),
        "plain": ("direct",),
        "two-roles": ("reasoner", "summarizer"),
    }
    asked = {name: getattr(agents, name) for name in shown.get(item.stage, ("reasoner",))}
    systems = about.config.systems
    facts = {"behind": behind, "data_sets": data_sets, "architecture": architecture, "asked": asked, "identity": behind["base"]["summary"]["identity"]}
    facts["trained_with"] = clean(item.manifest["config"], about.redact)
    sampling = systems.answer if item.stage.startswith("summarizer") or item.stage == "plain" else systems.reasoner
    return _render("model.md", data, about, item, **facts, sampling=sampling, results=[_table(table) for table in tables])


def _render(template: str, data: DatasetCardData | ModelCardData, about: About, item: Item, **facts: Any) -> str:
    environment = Environment(autoescape=True, finalize=_safe, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True, undefined=StrictUndefined)
    environment.filters.update(code=_code, fence=_fence, settings=_settings, python=lambda text: Markup(repr(text)), shell=lambda text: Markup(quote(text)))
    roles = {role: getattr(about.config.models, role) for role in ROLES}
    named = {role: about.redact(f"{role_.model}@{role_.revision}" if role_.revision else role_.model) for role, role_ in roles.items()}
    folder = files("insightv.publish") / "cards"
    shared = (folder / "parts.md").read_text(encoding="utf-8")
    facts |= {"about": about, "config": about.config, "item": item, "named": named, "simulated": simulated(about.config), "version": __version__}
    facts |= {"repo": about.repos[item.stage], "instructions": _INSTRUCTIONS, "turns": (prompts.NEXT_STEP, prompts.CONCLUDE)}
    body = environment.from_string(shared + (folder / template).read_text(encoding="utf-8")).render(facts)
    return f"---\n{data.to_yaml()}\n---\n\n{body.strip()}\n"


def _line(text: str) -> str:
    """A text as one line without control characters."""
    return "".join(c for c in re.sub(r"\s+", " ", text) if unicodedata.category(c)[0] != "C")[:300]


def _safe(value: Any) -> Markup:
    """A value as text in Markdown that means nothing but itself, on one line."""
    if isinstance(value, Markup):
        return value
    text = _MARKED.sub(r"\\\g<0>", html.escape(_line("unknown" if value is None else str(value)), quote=False))
    # What the Hub's renderer would make a link of.
    return Markup(text.replace("://", "&#58;//").replace("www.", "www&#46;"))


def _code(value: Any) -> Markup:
    """A name as code, if it is one; anything else escaped."""
    return Markup(f"`{value}`") if re.fullmatch(r"[\w.+/@-]+", str(value), re.ASCII) else _safe(value)


def _fence(text: str, language: str = "text") -> Markup:
    """A text word for word in a block that it cannot end."""
    ticks = "`" * max(3, 1 + max((len(run) for run in re.findall("`+", text)), default=0))
    return Markup(f"{ticks}{language}\n{text}\n{ticks}")


def _settings(values: Any) -> Markup:
    return _fence(yaml.safe_dump(values, sort_keys=False, allow_unicode=True).rstrip(), "yaml")


def _licence(stated: Iterable[str]) -> dict[str, Any]:
    """Front matter of the licences of all parts; an empty one was not stated."""
    names = sorted({_line(name) for name in stated})
    ids = [name.lower() for name in names]
    if "" in ids or not ids:
        return {"license": "unknown"}
    if set(ids) <= KNOWN_LICENCES:
        return {"license": ids[0] if len(ids) == 1 else ids}
    return {"license": "other", "license_name": re.sub(r"[^a-z0-9.]+", "-", "-".join(ids)).strip("-")[:80] or "other"}


def _histogram(made: Sequence[Made], kept: Counter[int]) -> list[tuple[str, int, int]]:
    """(range of scores, chains scored, chains of the set)."""
    scored = sum((stage.scores for stage in made), Counter[int]())
    found = []
    for low in range(1, 100, 10):
        inside = range(low, low + 10)
        found.append((f"{low} to {low + 9}", sum(scored[value] for value in inside), sum(kept[value] for value in inside)))
    return found if scored else []


def _cost(about: About, made: Sequence[Made]) -> str:
    """What the teacher's chains cost at the config's prices; empty if it has none, or no chain is the teacher's."""
    total = sum(about.config.models.generator.cost(*stage.tokens) for stage in made if stage.author == "teacher")
    return f"{total:.2f}" if total else ""


def _table(table: SplitTable) -> dict[str, Any]:
    """One split's results, as cells, with the tests in a line each."""
    groups = list(dict.fromkeys(group for row in table.rows for group in row.groups))
    rows = []
    for row in table.rows:
        shares = [_percent(row.groups[group].value) if group in row.groups else "" for group in groups]
        rows.append([row.system, _interval(row.macro), *shares, str(row.micro.n), str(row.unparsed)])
    tests = table.primary or table.against
    return {"split": table.split, "groups": groups, "rows": rows, "tests": [sentence(test) for test in tests], "planned": bool(table.primary)}


def _interval(rate: Rate) -> str:
    return "" if isnan(rate.value) else f"{_percent(rate.value)} ({_percent(rate.low)} to {_percent(rate.high)})"


def _percent(value: float) -> str:
    return "" if isnan(value) else f"{100 * value:.1f}"
