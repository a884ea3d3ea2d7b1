"""Which stages of a run are published, which of their files, and the figures that their cards tell."""

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any, Literal

import orjson

from insightv.config import Config, UserError
from insightv.datasets.sources import read_problems
from insightv.evaluation.figures import SplitTable, split_table
from insightv.files import explained
from insightv.loop import VERBS, is_method
from insightv.plan import Plan
from insightv.publish.redact import ROLES
from insightv.records import Chain, Score, Solution, Verdict
from insightv.store import Stage, content_hash, read_manifest, read_records

Kind = Literal["data", "model"]

FILES: dict[Kind, tuple[str, ...]] = {
    "data": ("train-*.parquet", "manifest.jsonl", "rejections.jsonl"),
    "model": (
        *("model.safetensors", "model-*.safetensors", "model.safetensors.index.json", "adapter_model.safetensors", "adapter_config.json"),
        *("config.json", "generation_config.json", "processor_config.json", "preprocessor_config.json", "video_preprocessor_config.json"),
        *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "vocab.json", "merges.txt", "tokenizer.model"),
        *("chat_template.jinja", "chat_template.json"),
    ),
}
"""All that is ever published of a stage's outputs: no logs, no checkpoints, nothing that was put beside them."""

MOST_LICENCES = 2**20
"""Bytes of an import's manifest.json that are read."""


@dataclass(frozen=True)
class Item:
    """A finished stage that is to be published."""

    stage: str
    kind: Kind
    folder: Path
    manifest: Mapping[str, Any]

    @property
    def files(self) -> list[str]:
        """Names of the outputs that are published, sorted."""
        return sorted(name for name in self.manifest["outputs"] if any(fnmatch(name, pattern) for pattern in FILES[self.kind]))


@dataclass(frozen=True)
class Made:
    """A stage of chains behind a data set, and what was judged of them."""

    stage: str
    author: str
    """`teacher`, or the trained model's stage."""
    sampling: dict[str, Any]
    summary: dict[str, Any]
    verdicts: dict[str, int]
    by: dict[str, int]
    scores: Counter[int]
    """Scores by value."""
    tokens: tuple[int, int, int]
    """Tokens of all chains: of prompts, of completions, and those of the prompts that a server had in its cache."""

    @property
    def mean(self) -> float:
        """Mean score of the chains that have one."""
        return round(sum(value * count for value, count in self.scores.items()) / self.scores.total(), 1)


def choose(run: Path, config: Config, steps: Plan, what: Sequence[str]) -> list[Item]:
    """The wanted stages, each finished with this config; without names all data sets behind the rows and the last trained pair that a row uses."""
    known: dict[str, Kind] = {name: "data" for name in steps.steps if re.fullmatch(VERBS["build"], name)}
    known |= {name: "model" for name in steps.steps if re.fullmatch(VERBS["train"], name)}
    if unknown := [name for name in what if name not in known]:
        raise UserError(f"--what: there is nothing to publish called {unknown[0]!r} in {run}; there are {', '.join(known)}")
    wanted = set(what) or _usual(config, steps, known)
    for name in sorted(wanted):
        for need in steps.steps:
            if need in steps.closure({name}) and not finished(run, steps, need):
                which = f"{need}, which {name} is made from," if need != name else name
                raise UserError(f"{run}: {which} is not done with the run's config by this version; run that again, or name with --what what is done")
    return [Item(name, kind, run / name, read_manifest(run / name)) for name, kind in known.items() if name in wanted]


def finished(run: Path, steps: Plan, name: str) -> bool:
    """Whether a stage was made with the plan's settings from what lies in the run now, be it by an older version of the code."""
    step, manifest = steps.steps[name], read_manifest(run / name)
    inputs = {need: content_hash(read_manifest(run / need).get("outputs")) for need in step.needs}
    return Stage(run, name, inputs | dict(step.outside), step.settings, manifest.get("version", 0)).done


def _usual(config: Config, steps: Plan, known: Mapping[str, Kind]) -> set[str]:
    used = {row: [need for need in steps.steps[f"evaluate-{row}"].needs if need in known] for row in config.systems.rows}
    behind = steps.closure({f"evaluate-{row}" for row in used})
    # Of rows with as many models the last one, and a control only where there is no pair.
    pair = max(reversed([used[row] for row in used if is_method(row)] or [*used.values()]), key=len, default=[])
    usual = {name for name, kind in known.items() if kind == "data" and name in behind} | set(pair)
    if not usual:
        raise UserError("systems.rows trains nothing, so there is nothing to publish")
    return usual


def chains_behind(run: Path, config: Config, steps: Plan, item: Item) -> list[Made]:
    """Who wrote the chains of a data set, and how they were judged."""
    needs = list(steps.steps[item.stage].needs)
    if not any(_holds(run, need, "chains.jsonl") for need in needs):
        # A set made of other sets has their chains.
        needs = list(dict.fromkeys(below for need in needs if need.endswith("-data") for below in steps.steps[need].needs))
    judged = next((need for need in needs if need.endswith(("assess", "rating"))), "assess")
    return [_made(run, config, steps, need, f"{need}-assess" if f"{need}-assess" in needs else judged) for need in needs if _holds(run, need, "chains.jsonl")]


def _made(run: Path, config: Config, steps: Plan, stage: str, judged: str) -> Made:
    policy = config.summary.own_sampling or config.systems.reasoner if stage in ("own-chains", "dpo-chains") else config.dpo.sampling
    author, sampling = ("teacher", config.generate.sampling) if stage == "generate" else (steps.steps[stage].needs[1], policy)
    prompt = completion = cached = 0
    for chain in read_records(run / stage / "chains.jsonl", Chain):
        prompt, completion, cached = prompt + chain.usage.prompt, completion + chain.usage.completion, cached + chain.usage.cached
    verdicts = list(read_records(run / judged / "verdicts.jsonl", Verdict))
    names = {True: "correct", False: "wrong", None: "not judged"}
    return Made(
        stage=stage,
        author=author,
        sampling=sampling.model_dump(mode="json"),
        summary=read_manifest(run / stage)["summary"],
        verdicts=dict(Counter(names[verdict.correct] for verdict in verdicts)),
        by=dict(Counter(verdict.by for verdict in verdicts)),
        scores=Counter(score.value for score in read_records(run / judged / "scores.jsonl", Score) if score.value is not None),
        tokens=(prompt, completion, cached),
    )


def rows_of(item: Item) -> Iterator[dict[str, Any]]:
    """The lines of a data set's manifest.jsonl."""
    with explained(item.folder), (item.folder / "manifest.jsonl").open("rb") as file:
        yield from (orjson.loads(line) for line in file)


def sources(run: Path, config: Config, items: Sequence[Item]) -> dict[str, list[dict[str, Any]]]:
    """Stage of each data set -> where its problems come from: name, licence (empty if not stated), problems and rows, by name."""
    names = {problem.id: problem.source for path in sorted((run / "problems").glob("*.jsonl")) for problem in read_problems(path)}
    stated = _licences(config)
    found = {}
    for item in items:
        rows: Counter[str] = Counter()
        problems: dict[str, set[str]] = {}
        for row in rows_of(item):
            source = names[row["problem_id"]]
            rows[source] += 1
            problems.setdefault(source, set()).add(row["problem_id"])
        found[item.stage] = [{"name": name, "licence": stated.get(name, ""), "problems": len(problems[name]), "rows": rows[name]} for name in sorted(rows)]
    return found


def _licences(config: Config) -> dict[str, str]:
    """Source -> licence, from the manifest.json that an import leaves beside its problems."""
    stated: dict[str, set[str]] = {}
    for folder in sorted({path.parent for _, path in config.problems if path}):
        path = folder / "manifest.json"
        if not path.is_file() or path.stat().st_size > MOST_LICENCES:
            continue
        entries = read_manifest(folder)
        for entry in entries.get("sources", []) if isinstance(entries, dict) else []:
            if isinstance(entry, dict) and isinstance(entry.get("licence"), str) and entry["licence"].strip():
                stated.setdefault(str(entry.get("name")), set()).add(entry["licence"].strip())
    return {name: "; ".join(sorted(licences)) for name, licences in stated.items()}


def tables(run: Path, config: Config, steps: Plan) -> list[SplitTable]:
    """The results of every split on which a row was evaluated with this config."""
    rows = [row for row in config.systems.rows if all(finished(run, steps, need) for need in steps.closure({f"evaluate-{row}"}))]
    found = []
    for split in config.systems.splits:
        name = "solutions.jsonl" if split == "test" else f"{split}.jsonl"
        read = {row: [s.model_copy(update={"system": row}) for s in read_records(run / f"evaluate-{row}" / name, Solution)] for row in rows}
        systems = {row: solutions for row, solutions in read.items() if solutions}
        if systems:
            problems = {problem.id: problem for problem in read_problems(run / "problems" / f"{split}.jsonl")}
            found.append(split_table(split, systems, problems, config.systems.baseline, config.systems.primary, config.seed))
    return found


def simulated(config: Config) -> list[str]:
    """The roles that the world's simulated teacher plays."""
    return [role for role in ROLES if config.world and not getattr(config.models, role).url]


def _holds(run: Path, stage: str, name: str) -> bool:
    return name in read_manifest(run / stage).get("outputs", {})
