"""Summary set (Insight-V, section 3.3): four parts in set proportions, so that the agent learns to judge, not to copy.

`optimal` High paths of the teacher; `flawed` paths of the teacher, in equal numbers Mid, Low and with a wrong answer; `own`
chains of the trained reasoner, right, wrong and broken in their natural mixture; `plain` questions without a chain.
The target is the ground truth always, and a chain stands in the prompt exactly as the agent meets it when it answers.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from insightv.chain_text import process_text
from insightv.config import PromptsConfig, SummaryDataConfig
from insightv.datasets.reasoning import plain_rows
from insightv.datasets.rows import Candidate, Rated, Rejection, Row, join, row
from insightv.datasets.shares import divide
from insightv.models.chat import text_message
from insightv.prompts import summarizer_messages
from insightv.records import Problem
from insightv.store import derive_seed

FLAWED = ("mid", "low", "wrong")
OWN = ("right", "wrong", "broken")


def build(
    teacher: Rated,
    own: Rated,
    plain: Sequence[Problem],
    settings: SummaryDataConfig,
    prompts: PromptsConfig,
    *,
    seed: int,
) -> tuple[list[Row], list[Rejection], dict[str, Any]]:
    """Rows of the four parts, rejections, and a summary with the exact counts.

    `own` are chains of the trained reasoner on problems that it was not trained on; they need verdicts, no scores.
    A part that falls short of its share is topped up from the others when `size` is set, and limits the whole set when
    it is not; a part that is empty gives its share to the others. The summary says so.
    """
    rejections: list[Rejection] = []
    strata = _teacher_strata(teacher, settings, rejections)
    own_chains = _own_chains(own, rejections)
    questions = {problem.id: problem for problem in plain}
    pools = {
        "optimal": _spread(strata["optimal"], seed, "optimal"),
        "flawed": _flawed(strata, seed),
        "own": _spread(own_chains, seed, "own"),
    }
    available = {name: len(pool) for name, pool in pools.items()} | {"plain": len(questions)}
    weights = {name: getattr(settings, name) for name in available}
    total = settings.size if settings.size is not None else _limit(weights, available)
    counts = divide(total, weights, available)
    taken = {name: pool[: counts[name]] for name, pool in pools.items()}
    for name, pool in pools.items():
        rejections += [candidate.reject("not_needed", name) for candidate in pool[counts[name] :]]
    chosen_questions = sorted(questions, key=lambda name: derive_seed(seed, "plain", name))[: counts["plain"]]
    rows = [_row(name, candidate, prompts) for name, pool in taken.items() for candidate in pool]
    rows += plain_rows([questions[name] for name in chosen_questions], prompts)
    rows.sort(key=lambda row: str(row["id"]))
    mixture = {
        "flawed": dict(Counter(_kind(candidate, settings) for candidate in taken["flawed"])),
        "own": dict(Counter(_own_kind(candidate) for candidate in taken["own"])),
    }
    return rows, rejections, _summary(settings, total, weights, available, counts, mixture)


def _teacher_strata(teacher: Rated, settings: SummaryDataConfig, rejections: list[Rejection]) -> dict[str, list[Candidate]]:
    strata: dict[str, list[Candidate]] = {name: [] for name in ("optimal", *FLAWED)}
    for candidate in _distinct(teacher, rejections):
        kind = _kind(candidate, settings)
        if kind in strata:
            strata[kind].append(candidate)
        else:
            rejections.append(candidate.reject(kind, candidate.fault))
    return strata


def _kind(candidate: Candidate, settings: SummaryDataConfig) -> str:
    """The stratum of a teacher's chain, or the reason why it has none."""
    if candidate.chain.status != "ok":
        return candidate.chain.status
    if candidate.correct is None:
        return "not_judged"
    if not candidate.correct:
        return "wrong"
    if candidate.value is None:
        return "not_scored"
    return "optimal" if candidate.value >= settings.high else "low" if candidate.value < settings.low else "mid"


def _own_chains(own: Rated, rejections: list[Rejection]) -> list[Candidate]:
    kept = []
    for candidate in _distinct(own, rejections):
        kind = _own_kind(candidate)
        if kind in OWN:
            kept.append(candidate)
        else:
            rejections.append(candidate.reject(kind, candidate.chain.reason))
    return kept


def _own_kind(candidate: Candidate) -> str:
    """What the summary agent meets: a right, a wrong or a broken chain; else the reason why it cannot be used."""
    if candidate.chain.status == "failed":
        return "failed"
    if candidate.chain.status == "defect":
        # A truncated or looping chain is what the agent will meet too, and the ground truth needs no verdict.
        return "broken"
    if candidate.correct is None:
        return "not_judged"
    return "right" if candidate.correct else "wrong"


def _distinct(rated: Rated, rejections: list[Rejection]) -> Iterable[Candidate]:
    for _, candidates in join(rated):
        seen: set[str] = set()
        for candidate in candidates:
            text = process_text(candidate.chain)
            if candidate.chain.status != "failed" and text in seen:
                rejections.append(candidate.reject("duplicate_text"))
            else:
                seen.add(text)
                yield candidate


def _spread(candidates: Iterable[Candidate], seed: int, name: str) -> list[Candidate]:
    """Shuffled by hash, every problem's first chain before any problem's second."""
    shuffled = sorted(candidates, key=lambda candidate: derive_seed(seed, name, candidate.chain.id))
    rank: Counter[str] = Counter()
    ranked = []
    for place, candidate in enumerate(shuffled):
        ranked.append((rank[candidate.problem.id], place, candidate))
        rank[candidate.problem.id] += 1
    return [candidate for *_, candidate in sorted(ranked, key=lambda item: item[:2])]


def _flawed(strata: Mapping[str, list[Candidate]], seed: int) -> list[Candidate]:
    """The strata dealt by turns, so that any beginning of the list holds equal numbers as far as they reach."""
    spread = [_spread(strata[name], seed, name) for name in FLAWED]
    longest = max(len(pool) for pool in spread)
    return [pool[turn] for turn in range(longest) for pool in spread if turn < len(pool)]


def _limit(weights: Mapping[str, float], available: Mapping[str, int]) -> int:
    """Rows in all when the scarcest part that has any sets the size."""
    present = [name for name, weight in weights.items() if weight > 0 and available[name]]
    whole = sum(weights[name] for name in present)
    return min((int(available[name] * whole / weights[name] + 1e-9) for name in present), default=0)


def _row(part: str, candidate: Candidate, prompts: PromptsConfig) -> Row:
    prompt = summarizer_messages(candidate.problem, process_text(candidate.chain), prompts)
    return row(part, candidate.problem, prompt, {"completion": [text_message("assistant", candidate.problem.answers[0])]}, {"chain": candidate})


def _summary(
    settings: SummaryDataConfig,
    total: int,
    weights: Mapping[str, float],
    available: Mapping[str, int],
    counts: Mapping[str, int],
    mixture: Mapping[str, Any],
) -> dict[str, Any]:
    wanted = divide(total, weights, dict.fromkeys(weights, total))
    notes = [f"{name}: {counts[name]} rows for {wanted[name]} wanted" for name in counts if counts[name] < wanted[name]]
    if sum(counts.values()) < total:
        notes.append(f"{sum(counts.values())} rows for {total} wanted: everything is used up")
    if settings.size is None:
        scarce = [name for name in counts if weights[name] > 0 and 0 < available[name] == counts[name]]
        notes += [f"{name} limits the set" for name in scarce]
    parts = {name: {"available": available[name], "wanted": wanted[name], "rows": counts[name]} for name in counts}
    return {"rows": sum(counts.values()), "parts": parts, **mixture, "notes": notes}
