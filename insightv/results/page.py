"""The results of an experiment as Markdown: every seed, the comparisons written down beforehand, and where chains go wrong."""

import re
from collections.abc import Iterable, Mapping, Sequence
from math import isnan

from insightv.evaluation.compare import Comparison
from insightv.evaluation.statistics import Rate
from insightv.loop import ROWS
from insightv.results.faults import FAULTS, Outcome, headroom, outcomes, taxonomy
from insightv.results.seeds import RIGHT, Contrast, Line, Seed, contrasts, lines

PERCEPTION_LOSS = 0.01
"""How far perception may fall below the base's."""
PROMISE, PROMISE_P = 0.15, 0.001
"""What the demo promises of its last row over the base: points, and the p below which they count."""


def page(splits: Mapping[str, Sequence[Seed]], baseline: str, primary: Sequence[tuple[str, str]]) -> str:
    """Markdown of every split; pure."""
    blocks = []
    for split, seeds in splits.items():
        sizes = ", ".join(f"{len(seed.problems)} problems of seed {seed.seed}" for seed in seeds)
        blocks += [
            f"## {split.capitalize()} split",
            f"{sizes}. {_sharing(seeds)}{'' if split == 'test' else ' In the same form as the test split, which decides.'}",
            table(lines(seeds)),
            *_comparisons(split, seeds, baseline, primary),
            *errors(seeds, baseline),
        ]
    return "\n\n".join(blocks) + "\n"


def sentence(contrast: Contrast, planned: bool = True) -> str:
    """What a comparison says over all seeds, whichever way it fell; `planned` if it is one that was written down beforehand."""
    c = contrast
    if not c.mean.n:
        return f"{c.after} - {c.before}: no scored problem in common."
    figures = f"{c.after} - {c.before} = {points(c.mean)} points, {c.agreeing} of {len(c.seeds)} seeds in this direction"
    interval = c.strict if planned else c.mean
    if interval.low > 0:
        finding = f"{c.after} was better"
    elif interval.high < 0:
        finding = f"the order is reversed: {'the single model' if c.before.startswith('single') else c.before} was better"
    else:
        finding = "the paper's order is not established here" if planned else "no difference is established here"
    return f"{figures}; {finding}. Detectable: {100 * c.detectable:.1f}."


def _sharing(seeds: Sequence[Seed]) -> str:
    if len(seeds) == 1:
        return "One seed: its intervals say nothing of another training."
    different = len({name for seed in seeds for name in seed.problems})
    return (
        f"{different} different problems in all. Intervals over seeds resample problems, each one item however many seeds had it; they hold for these "
        "trained models, and how far trainings scatter is what the single seeds show."
    )


def table(rows: Sequence[Line]) -> str:
    """Every row and seed, and what the columns mean."""
    groups = list(dict.fromkeys(group for line in rows for group in line.groups))
    head = ["row", "seed", "macro [95%]", *groups, "chain correct", "fix", "mislead", "tokens", "updates", "unparsed"]
    body = []
    for line in rows:
        cells = [line.system, "mean" if line.seed is None else str(line.seed), interval(line.macro), *(percent(line.groups.get(g)) for g in groups)]
        cells += [percent(line.chain_right), percent(line.fix), percent(line.mislead), f"{line.tokens:.0f}", f"{line.updates:.0f}"]
        cells.append(f"{line.unparsed:.3g}" + (f" ({line.owed} owed)" if line.owed else ""))
        body.append([f"**{cell}**" if line.seed is None and cell else cell for cell in cells])
    note = (
        "Accuracy in %; macro is the average over families. A chain is correct if every fact relevant to the question and every inference is, "
        "not only its answer. fix = P(answer right | chain wrong), mislead = P(answer wrong | chain right). Tokens are those written per answer; "
        "updates are the optimizer steps of all models of a row."
    )
    return f"{markdown(head, body)}\n\n{note}"


def _comparisons(split: str, seeds: Sequence[Seed], baseline: str, primary: Sequence[tuple[str, str]]) -> list[str]:
    rows = list(seeds[0].systems)
    primary = [pair for pair in primary if set(pair) <= set(rows)]
    blocks = []
    if primary:
        found = contrasts(seeds, primary)
        wide = f"{100 * (1 - 0.05 / len(primary)):.1f}%"
        said = f"Brackets are 95% intervals; whether an order is established is decided by the {wide} interval (Bonferroni over {len(primary)})."
        blocks += ["### Comparisons written down beforehand", tests(found), "\n".join(f"- {sentence(c)}" for c in found), said]
    if baseline in rows and rows[-1] != baseline:
        [last] = contrasts(seeds, [(baseline, rows[-1])])
        kept = all(test.difference.value >= PROMISE and test.p < PROMISE_P for test in last.seeds.values())
        promise = f" The demo's promise, at least {100 * PROMISE:.0f} points and p < {PROMISE_P} in every seed: **{'kept' if kept else 'not kept'}**."
        blocks += [f"### {last.after} against {baseline}", tests([last], holm=False), sentence(last, planned=False) + promise * (split == "test")]
    pairs = [(baseline, row) for row in rows if re.fullmatch(r"pair(\+.*)?", row) and baseline in rows]
    if pairs and any(problem.meta.get("group") == "perception" for seed in seeds for problem in seed.problems.values()):
        seen = contrasts(seeds, pairs, lambda problem: problem.meta.get("group") == "perception")
        verdicts = "\n".join(f"- {c.after}: {points(c.mean)} points against {baseline}, {_kept(c.mean)}." for c in seen)
        blocks += ["### Is perception kept?", "Families of pure perception alone, paired; allowed is a loss of 1 point.", tests(seen, holm=False), verdicts]
    return blocks


def _kept(mean: Rate) -> str:
    if mean.value < -PERCEPTION_LOSS:
        return "**not kept**"
    return "kept" if mean.low >= -PERCEPTION_LOSS else "kept, though the interval does not exclude a larger loss"


def tests(found: Sequence[Contrast], holm: bool = True) -> str:
    """Contrasts seed by seed and over the seeds."""
    head = ["comparison", "seed", "difference in points [95%]", "p (exact McNemar)", *(["p (Holm)"] * holm), "helped / hurt", "detectable"]
    body = []
    for contrast in found:
        name = f"{contrast.after} - {contrast.before}"
        body += [_test(name, seed, test, holm) for seed, test in contrast.seeds.items()]
        if len(contrast.seeds) > 1:
            cells = [name, "mean", points(contrast.mean), "", *([""] * holm), "", f"{100 * contrast.detectable:.1f}"]
            body.append([f"**{cell}**" if cell else cell for cell in cells])
    return markdown(head, body)


def _test(name: str, seed: int, test: Comparison, holm: bool) -> list[str]:
    corrected = [_p(test.p if test.p_holm is None else test.p_holm)] * holm
    return [name, str(seed), points(test.difference), _p(test.p), *corrected, f"{len(test.helped)} / {len(test.hurt)}", f"{100 * test.detectable:.1f}"]


def errors(seeds: Sequence[Seed], baseline: str) -> list[str]:
    """Where chains go wrong, and what the final answer makes of them."""
    rows = [row for row in seeds[0].systems if any(seed.faults[row] for seed in seeds)]
    if not rows:
        return []
    kinds = []
    for row in rows:
        counts = taxonomy(seeds, row)
        wrong = counts.total() - counts[RIGHT]
        kinds.append([row, f"{wrong} of {counts.total()}", *(_part(counts[fault], wrong) for fault in FAULTS)])
    blocks = ["### Wrong chains, by the first thing wrong with them", markdown(["row", "wrong chains", *FAULTS], kinds)]
    blocks.append("Shares of the wrong chains in %, here and below counted over all seeds.")
    head = ["row", "chain", "chains", "answer right [95%]", "misled", "own answer wrong", "of these corrected [95%]"]
    blocks += ["### Fix and mislead, by error", markdown(head, [_outcome(row, outcome) for row in rows for outcome in outcomes(seeds, row)])]
    blocks.append("Corrected are answers that became right though the chain's own answer was wrong; the rest of the right ones were right by luck already.")
    return blocks + _headroom(seeds, rows, [row for row in seeds[0].systems if row == baseline or ROWS.get(row, ("",))[0] == "solve_direct"])


def _headroom(seeds: Sequence[Seed], rows: Sequence[str], direct: Sequence[str]) -> list[str]:
    found = [(row, headroom(seeds, row, other)) for row in rows for other in direct if other != row]
    if not found:
        return []
    head = ["chains of", "direct answers of", "wrong chains", "direct right, of these [95%]", "oracle union - chain, points [95%]"]
    body = [[row, h.direct, str(h.rescue.n), interval(h.rescue), points(h.union)] for row, h in found]
    note = "The oracle always takes the right one of the chain's own answer and the direct one: the most that looking again could give."
    return ["### Headroom", markdown(head, body), note]


def _outcome(row: str, outcome: Outcome) -> list[str]:
    if outcome.fault == RIGHT:
        return [row, "correct", str(outcome.answered.n), interval(outcome.answered), percent(1 - outcome.answered.value), "", ""]
    corrected = [str(outcome.corrected.n), interval(outcome.corrected)]
    return [row, f"wrong: {outcome.fault}", str(outcome.answered.n), interval(outcome.answered), "", *corrected]


def markdown(head: Sequence[str], body: Iterable[Sequence[str]]) -> str:
    """A table."""
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (head, ["---"] * len(head), *body))


def percent(value: float | None) -> str:
    """A share in percent; empty where there is none."""
    return "" if value is None or isnan(value) else f"{100 * value:.1f}"


def interval(rate: Rate) -> str:
    """A share in percent with its interval; empty where there is none."""
    return "" if isnan(rate.value) else f"{100 * rate.value:.1f} [{100 * rate.low:.1f}, {100 * rate.high:.1f}]"


def points(rate: Rate) -> str:
    """A difference in points with its interval."""
    return "" if isnan(rate.value) else f"{100 * rate.value:+.1f} [{100 * rate.low:+.1f}, {100 * rate.high:+.1f}]"


def _part(count: int, whole: int) -> str:
    return f"{100 * count / whole:.0f}" if whole else ""


def _p(p: float) -> str:
    return "< 0.001" if p < 0.001 else f"{p:.3f}"
