"""How the marks of a benchmark's items become its number, as strata of clusters, so that a total and a paired difference have intervals alike."""

import re
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from zlib import crc32

import numpy as np

from insightv.evaluation.profiles import LMMS, rule
from insightv.evaluation.scorers.columns import FORMULAS, Row
from insightv.evaluation.statistics import RESAMPLES, Resampled, detectable, mcnemar_exact, resampled, sign_flips, wilson

Clusters = Mapping[str, Mapping[str, tuple[float, float]]]
"""By stratum and cluster: the sum of marks, and of how many."""


@dataclass(frozen=True, slots=True)
class Scored:
    """One item with its mark."""

    item: str
    """`index` of `Problem.meta`."""
    cluster: str
    """What it shares with items that are no independent ones, of `Problem.meta` too."""
    row: Row
    value: float
    """Of one reply: what was averaged over several is not right or wrong, as MMBench's and MME's ways need it."""
    sample: int = 0
    """Which of several answers to it; a benchmark's number is the mean over samples."""


@dataclass(frozen=True, slots=True)
class PairedTest:
    """What a paired test says of a difference."""

    p: float
    test: str
    detectable: float
    """The difference that it finds with 80% power, in the total's unit; NaN where nothing can be said."""


@dataclass(frozen=True, slots=True)
class Total:
    """A benchmark's number."""

    metric: str
    top: float
    """The most that it can be, in the unit of all that is here: 100, 1000, 2800 .."""
    score: Resampled
    """`n` counts what was averaged: MMBench's questions, MME's images. NaN where there is nothing."""
    parts: dict[str, float]
    """The same of kinds of items; of MME and OCRBench the points that they add."""

    def percent(self) -> Resampled:
        """Of the most that it can be: what an average over benchmarks is of."""
        return Resampled(self.score.value * 100 / self.top, self.score.draws * 100 / self.top, self.score.n)


def total(profile: str, benchmark: str, scored: Sequence[Scored], *, resamples: int = RESAMPLES) -> Total:
    """The number of one system, with its bootstrap."""
    way = _way(profile, benchmark)
    clusters = _clusters(way, scored)
    kinds: dict[str, list[Scored]] = defaultdict(list)
    for one in scored:
        for name in way.parts(one.row):
            kinds[name].append(one)
    share = {name: len(some) / len(scored) if way.shared else 1.0 for name, some in kinds.items()}
    parts = {name: share[name] * _resampled(way, _clusters(way, some), 1, benchmark).value for name, some in sorted(kinds.items())}
    top = way.top * max(1, len(clusters)) if way.summed else way.top
    return Total(way.metric, top, _resampled(way, clusters, resamples, benchmark), parts)


def difference(profile: str, benchmark: str, before: Sequence[Scored], after: Sequence[Scored], *, resamples: int = RESAMPLES) -> Resampled:
    """After less before on the answers that both have, in the total's unit; clusters are drawn whole. NaN where they have none in common."""
    way = _way(profile, benchmark)
    return _resampled(way, _changes(way, before, after), resamples, benchmark)


def paired_test(profile: str, benchmark: str, before: Sequence[Scored], after: Sequence[Scored]) -> PairedTest:
    """Whether that difference can be chance: McNemar's exact test where each cluster is right or wrong as a whole, else its sign tossed 10,000 times."""
    way = _way(profile, benchmark)
    changes = _changes(way, before, after)
    pairs = [pair for clusters in changes.values() for pair in clusters.values()]
    if not pairs:
        return PairedTest(1.0, "none", float("nan"))
    if len(changes) == 1 and all(number == 1 and change in (-1.0, 0.0, 1.0) for change, number in pairs):
        helped, hurt = (sum(change == sign for change, _ in pairs) for sign in (1.0, -1.0))
        # Where nothing differs, as many may differ as are not excluded by that.
        discordance = (helped + hurt) / len(pairs) or wilson(0, len(pairs)).high
        return PairedTest(mcnemar_exact(helped, hurt), "exact McNemar", way.top * detectable(len(pairs), discordance))
    found = _resampled(way, changes, RESAMPLES, benchmark)
    arrays = {stratum: np.array(list(clusters.values())) for stratum, clusters in changes.items()}
    p = sign_flips(arrays, dict.fromkeys(arrays, _weight(way, changes)), seed=crc32(benchmark.encode()))
    return PairedTest(p, "sign flips", found.detectable() if found.draws.std() > 0 else float("nan"))


def counts_whole(profile: str, benchmark: str) -> bool:
    """Whether a cluster means something only with all its items: the rotations of a question, the two questions about an image."""
    return _way(profile, benchmark).cluster is not _mean


# Ways


def _alone(_: Row) -> str:
    return ""


def _no_parts(_: Row) -> Sequence[str]:
    return ()


def _mean(items: Sequence[Scored]) -> tuple[float, float]:
    return sum(one.value for one in items), len(items)


def _whole_question(items: Sequence[Scored]) -> tuple[float, float]:
    """MMBench: right if every rotation is. A question whose first rotation is not there does not count, in harnesses too."""
    if not any(int(one.row["index"]) < _ROTATION for one in items):
        return 0.0, 0.0
    return float(all(one.value == 1 for one in items)), 1.0


def _image(items: Sequence[Scored]) -> tuple[float, float]:
    """MME: the mean of accuracy and accuracy+ over an image's two questions; one whose second is not there is not right in both."""
    right = [one.value == 1 for one in items]
    return (sum(right) / len(right) + (len(right) > 1 and all(right))) / 2, 1.0


def _column(*names: str) -> Callable[[Row], str]:
    """The first of these columns that there is."""
    return lambda row: next((str(row[name]) for name in names if row.get(name)), "")


def _parted(*names: str) -> Callable[[Row], Sequence[str]]:
    column = _column(*names)
    return lambda row: [column(row)] if column(row) else []


def _subject(row: Row) -> Sequence[str]:
    found = _SUBJECT.fullmatch(str(row.get("id", "")))
    return [found[1]] if found else _parted("subject", "category")(row)


def _questioner(row: Row) -> str:
    return "human" if "human" in _column("type", "split")(row) else "augmented"


def _senses(row: Row) -> Sequence[str]:
    return [row["category"], "cognition" if row["category"] in _COGNITION else "perception"]


def _reading(row: Row) -> Sequence[str]:
    kind = _column("question_type", "category")(row)
    return [kind, "Text Recognition"] if kind.endswith("Recognition") and kind != FORMULAS else [kind]


def _task(row: Row) -> Sequence[str]:
    return _parted("task")(row.get("metadata") or row)


@dataclass(frozen=True, slots=True)
class _Way:
    metric: str = "accuracy"
    top: float = 100.0
    """Of each stratum where these are summed, else of the whole."""
    summed: bool = False
    """Strata add up."""
    shared: bool = False
    """Parts add up to the whole."""
    stratum: Callable[[Row], str] = _alone
    """What is averaged first."""
    cluster: Callable[[Sequence[Scored]], tuple[float, float]] = _mean
    parts: Callable[[Row], Sequence[str]] = _no_parts


_ROTATION = 10**6
_SUBJECT = re.compile(r"[a-z]+_(.+)_\d+")
_COGNITION = ("commonsense_reasoning", "numerical_calculation", "text_translation", "code_reasoning")

_WAYS: dict[str, _Way] = {
    "mmmu": _Way(parts=_subject),
    "mmmu-pro": _Way(parts=_subject),
    "mmmu-pro-vision": _Way(parts=_subject),
    "mmbench": _Way("circular accuracy", cluster=_whole_question, parts=_parted("category")),
    "mme": _Way("points", 200.0, summed=True, stratum=_column("category"), cluster=_image, parts=_senses),
    "chartqa": _Way("relaxed accuracy", parts=lambda row: [_questioner(row)]),
    "mmstar": _Way(parts=_parted("category")),
    "mathvista": _Way(parts=_task),
    "textvqa": _Way("VQA accuracy"),
    "docvqa": _Way("ANLS"),
    "ocrbench": _Way("points", 1000.0, shared=True, parts=_reading),
}
_OWN_WAYS: dict[tuple[str, str], _Way] = {
    ("official", "chartqa"): _Way("relaxed accuracy, mean of human and augmented", stratum=_questioner, parts=lambda row: [_questioner(row)]),
    (LMMS, "mmstar"): _Way("accuracy, mean over l2 categories", stratum=_column("l2_category"), parts=_parted("category")),
}
"""Where one profile differs from the others."""


def _way(profile: str, benchmark: str) -> _Way:
    rule(profile, benchmark)  # An unknown name is an error here too.
    return _OWN_WAYS.get((profile, benchmark)) or _WAYS.get(benchmark) or _Way()


def _clusters(way: _Way, scored: Sequence[Scored]) -> Clusters:
    grouped: dict[str, dict[str, list[Scored]]] = defaultdict(lambda: defaultdict(list))
    for one in scored:
        grouped[way.stratum(one.row)][one.cluster].append(one)
    found = {stratum: {name: _over_samples(way, items) for name, items in clusters.items()} for stratum, clusters in grouped.items()}
    counted = {stratum: {name: pair for name, pair in clusters.items() if pair[1]} for stratum, clusters in found.items()}
    return {stratum: clusters for stratum, clusters in counted.items() if clusters}


def _changes(way: _Way, before: Sequence[Scored], after: Sequence[Scored]) -> Clusters:
    """What each cluster gained, of the answers that both have."""
    common = {(one.item, one.sample) for one in before} & {(one.item, one.sample) for one in after}
    was, now = (_clusters(way, [one for one in scored if (one.item, one.sample) in common]) for scored in (before, after))
    return {stratum: {name: (now[stratum][name][0] - value, number) for name, (value, number) in clusters.items()} for stratum, clusters in was.items()}


def _over_samples(way: _Way, items: Sequence[Scored]) -> tuple[float, float]:
    """A cluster's sum and number, each the mean over samples: what all rotations of a question must be is right within one."""
    samples: dict[int, list[Scored]] = defaultdict(list)
    for one in items:
        samples[one.sample].append(one)
    pairs = [way.cluster(some) for some in samples.values()]
    return sum(value for value, _ in pairs) / len(pairs), sum(number for _, number in pairs) / len(pairs)


def _resampled(way: _Way, clusters: Clusters, resamples: int, benchmark: str) -> Resampled:
    if not clusters:
        return Resampled(float("nan"), np.full(resamples, np.nan), 0)
    strata = {stratum: np.array(list(pairs.values())) for stratum, pairs in clusters.items()}
    # Other benchmarks have other draws, or their average would have too wide an interval.
    return resampled(strata, dict.fromkeys(strata, _weight(way, clusters)), seed=crc32(benchmark.encode()), resamples=resamples)


def _weight(way: _Way, clusters: Clusters) -> float:
    """What a stratum adds to the number."""
    return way.top if way.summed else way.top / len(clusters)
