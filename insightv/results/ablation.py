"""An ablation's results as Markdown: the paper's rows beside the paper's figures, the comparisons written down beforehand, questions, curves, errors."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from insightv.ablation import Part
from insightv.config import Config, UserError, WorldConfig
from insightv.files import replacing
from insightv.results import drawn
from insightv.results.faults import Outcome, outcomes
from insightv.results.page import errors, interval, markdown, percent, points, sentence, table, tests
from insightv.results.seeds import Contrast, Line, Seed, contrasts, lines
from insightv.results.write import check_whole, read_seed

PAPER = {
    "base": ("baseline", 59.2),
    "single": ("direct SFT", 60.6),
    "multi-turn": ("multi-turn supervised", 61.0),
    "summarizer": ("summary agent only", 59.8),
    "pair": ("multi-agent", 62.1),
    "pair+rlaif": ("+ RLAIF", 62.3),
    "pair+dpo1": ("+ DPO", 62.7),
    "pair+dpo": ("+ iterative DPO", 63.3),
}
"""Row -> the paper's name for it, and its average of MMMU, ChartQA, MathVista and MMStar (Insight-V, table of the ablation; its own 7B base)."""

SHARE, NOISE, DIFFICULTY = "reasoning.share", "world.teacher.misperception", "world.difficulty"
SHOWN = ("reasoner", "pair", "pair+dpo", "pair-high")
"""Rows in the plot of errors."""
GAIN = ("single-fair", "pair")
"""Whose difference the response surface shows."""


@dataclass(frozen=True, slots=True)
class Cell:
    """The finished runs of one cell, or of several with the same settings."""

    names: tuple[str, ...]
    settings: Mapping[str, object]
    seeds: Mapping[str, list[Seed]]
    """By split."""


def write(config: Config, parts: Sequence[Part], out: Path) -> list[str]:
    """Write `out` and its plots beside it from what is finished; returns a line for each run that is not."""
    cells, missing = read(config, parts)
    own = next((cell for cell in cells if not cell.settings), None)
    if own is None:
        raise UserError("no run with the config's own settings is finished yet; repeat the command")
    with replacing(out) as file:
        file.write(page(config, own, cells, out, missing).encode())
    return missing


def read(config: Config, parts: Sequence[Part]) -> tuple[list[Cell], list[str]]:
    """The cells with at least one finished run, each with the rows that all of its finished runs have, and what is missing."""
    found: dict[tuple[str, ...], list[Part]] = {}
    missing = []
    for part in parts:
        rows = [row for row in part.config.systems.rows if (part.config.run / f"evaluate-{row}" / "manifest.json").is_file()]
        if owed := [row for row in part.config.systems.rows if row not in rows]:
            missing.append(f"{part.config.run}: {', '.join(owed)}")
        if rows:
            done = replace(part, config=part.config.model_copy(update={"systems": part.config.systems.model_copy(update={"rows": tuple(rows)})}))
            found.setdefault(part.cells, []).append(done)
    return [_cell(config, those) for those in found.values()], missing


def _cell(config: Config, parts: Sequence[Part]) -> Cell:
    rows = [row for row in parts[0].config.systems.rows if all(row in part.config.systems.rows for part in parts)]
    seeds: dict[str, list[Seed]] = {}
    for part in parts:
        own = part.config.model_copy(update={"systems": part.config.systems.model_copy(update={"rows": tuple(rows)})})
        check_whole(own.run, own)
        for split in own.systems.splits:
            seeds.setdefault(split, []).append(read_seed(own.run, own, split))
    return Cell(parts[0].cells, config.ablate.cells[parts[0].cells[0]].set, seeds)


def page(config: Config, own: Cell, cells: Sequence[Cell], out: Path, missing: Sequence[str]) -> str:
    """The Markdown of all of it; draws the plots beside `out`."""
    test = own.seeds["test"]
    primary = [pair for pair in config.systems.primary if set(pair) <= set(test[0].systems)]
    planned, asked = contrasts(test, primary, planned=len(config.systems.primary)), _asked(config, test)
    blocks = [
        "# Results",
        "Written by `insightv ablate configs/ablation.yaml`, not by hand. What is asked, how it is read and what was predicted: [ablation.md](ablation.md).",
        *([f"Not finished: {'; '.join(missing)}."] if missing else []),
        _sizes(test),
        "## The paper's rows",
        _beside_the_paper(test, config.systems.baseline),
        "## Comparisons written down beforehand",
        *_planned(planned, len(config.systems.primary)),
        drawn.image(out, "seeds", drawn.paired([*planned, *(contrast for contrast, _ in asked)]), "Differences by seed, and their mean with its 95% interval"),
        *_heldout(own, primary),
        "## Questions",
        "Uncorrected: each answers its own question.",
        "\n".join(f"- {question} {sentence(contrast, planned=False)}" for contrast, question in asked),
        *_curve(own, cells, out),
        *_surface(config, own, cells, out),
        "## Every row",
        table(lines(test)),
        drawn.image(out, "tokens", drawn.tokens(_means(test)), "Accuracy against tokens written per answer"),
        *errors(test, config.systems.baseline),
        drawn.image(out, "errors", drawn.fixes(_outcomes(test)), "What becomes of wrong and right chains"),
        *_training(config, own, out),
    ]
    return "\n\n".join(blocks) + "\n"


def _sizes(seeds: Sequence[Seed]) -> str:
    sizes = ", ".join(f"{len(seed.problems)} problems of seed {seed.seed}" for seed in seeds)
    return (
        f"Test split: {sizes}. Intervals over seeds resample problems; they hold for these trained models, and how far trainings scatter is what the single "
        "seeds show. The world was made to have headroom for a second look: what shows here is a proof of existence, not of generality."
    )


def _beside_the_paper(seeds: Sequence[Seed], baseline: str) -> str:
    rows = [row for row in PAPER if row in seeds[0].systems]
    means = {line.system: line for line in _means(seeds)}
    against = {one.after: one for one in contrasts(seeds, [(baseline, row) for row in rows if row != baseline])}
    body = []
    for row in rows:
        name, average = PAPER[row]
        gain = [points(against[row].mean), _agreeing(against[row])] if row in against else ["", ""]
        theirs = f"{average - PAPER['base'][1]:+.1f}" if row != "base" else ""
        body.append([row, name, interval(means[row].macro), *gain, f"{average:.1f}", theirs])
    head = ["row", "in the paper", "macro here [95%]", f"over {baseline}, points [95%]", "seeds", "paper's average", "over its baseline"]
    note = "The paper's averages are of MMMU, ChartQA, MathVista and MMStar, in percent, on its own 7B base: only the order can be compared."
    return f"{markdown(head, body)}\n\n{note}"


def _means(seeds: Sequence[Seed]) -> list[Line]:
    """Every row over all seeds."""
    return [line for line in lines(seeds) if line.seed is None or len(seeds) == 1]


def _outcomes(seeds: Sequence[Seed]) -> dict[str, list[Outcome]]:
    return {row: outcomes(seeds, row) for row in SHOWN if row in seeds[0].systems}


def _agreeing(contrast: Contrast) -> str:
    return f"{contrast.agreeing} of {len(contrast.seeds)}"


def _planned(found: Sequence[Contrast], count: int) -> list[str]:
    if not found:
        return ["None of their rows is finished."]
    wide = f"{100 * (1 - 0.05 / count):.1f}%"
    said = f"Brackets are 95% intervals; whether an order is established is decided by the {wide} interval (Bonferroni over {count})."
    return [tests(found), "\n".join(f"- {sentence(one)}" for one in found), said]


def _heldout(own: Cell, primary: Sequence[tuple[str, str]]) -> list[str]:
    seeds = own.seeds.get("heldout")
    if not seeds or not primary:
        return []
    said = "\n".join(f"- {sentence(one)}" for one in contrasts(seeds, primary))
    return ["### The same on combinations that no training saw", "In the same form as the test split, which decides.", said]


def _asked(config: Config, seeds: Sequence[Seed]) -> list[tuple[Contrast, str]]:
    questions = [(before, after, question) for before, after, question in config.ablate.contrasts if {before, after} <= set(seeds[0].systems)]
    # Each by itself: Holm's correction is for those written down beforehand.
    return [(contrasts(seeds, [(before, after)])[0], question) for before, after, question in questions]


def _curve(own: Cell, cells: Sequence[Cell], out: Path) -> list[str]:
    parts = {float(str(cell.settings[SHARE])): cell for cell in cells if set(cell.settings) == {SHARE}}
    if not parts:
        return []
    shares = dict(sorted({**parts, 1.0: own}.items()))
    rows = [row for row in ("reasoner", "pair") if all(row in cell.seeds["test"][0].systems for cell in shares.values())]
    means: dict[str, list[tuple[float, Line]]] = {row: [] for row in rows}
    body = []
    for share, cell in shares.items():
        for row in rows:
            some = lines([replace(seed, systems={row: seed.systems[row]}) for seed in cell.seeds["test"]])
            line = some[-1]
            means[row].append((share, line))
            body.append([f"{share:g}", row, str(len(cell.seeds["test"])), interval(line.macro), percent(line.chain_right), f"{line.updates:.0f}"])
    head = ["part of the reasoning data", "row", "seeds", "macro [95%]", "chain correct", "updates"]
    plot = drawn.image(out, "data", drawn.curve(means), "Accuracy against the reasoning data")
    return [
        "## More reasoning data",
        "Each part is within the next, with as many epochs; the summary agent is trained anew on its reasoner's chains.",
        markdown(head, body),
        plot,
    ]


def _surface(config: Config, own: Cell, cells: Sequence[Cell], out: Path) -> list[str]:
    places = {}
    for cell in cells:
        if set(cell.settings) and not {NOISE, DIFFICULTY}.isdisjoint(cell.settings):
            places[_place(config, cell)] = cell
    if not places:
        return []
    seeds = {seed.seed for cell in places.values() for seed in cell.seeds["test"]}
    here = Cell(own.names, own.settings, {"test": [seed for seed in own.seeds["test"] if seed.seed in seeds]})
    places[_place(config, here)] = here
    body, gains = [], {}
    for place, cell in sorted(places.items()):
        some = cell.seeds["test"]
        if not some or not set(GAIN) <= set(some[0].systems):
            continue
        shown = {line.system: line for line in _means(some)}
        [gain] = contrasts(some, [GAIN])
        gains[place] = gain.mean
        figures = [interval(shown[row].macro) if row in shown else "" for row in ("base", "single-fair", "reasoner", "pair")]
        body.append([f"{place[0]:g}", f"{place[1]:g}", *figures, percent(shown["pair"].chain_right), points(gain.mean)])
    head = ["difficulty", "teacher's misperception", "base", "single-fair", "reasoner", "pair", "chain correct", "pair - single-fair, points [95%]"]
    plot = drawn.image(out, "surface", drawn.surface(gains), "What the pair gains over the fair single model")
    said = f"Seeds {', '.join(map(str, sorted(seeds)))}: intervals are over their problems, and say nothing of another training."
    return ["## Response surface", said, markdown(head, body), plot]


def _place(config: Config, cell: Cell) -> tuple[float, float]:
    """(difficulty, misperception) of a cell; what its settings do not name is the config's own."""
    world = config.world or WorldConfig()
    return float(str(cell.settings.get(DIFFICULTY, world.difficulty))), float(str(cell.settings.get(NOISE, world.teacher.misperception)))


def _training(config: Config, own: Cell, out: Path) -> list[str]:
    logs = drawn.logs(config.run, [seed.seed for seed in own.seeds["test"]], config.dpo.rounds)
    if not logs:
        return []
    plot = drawn.image(out, "rounds", drawn.rounds(logs), "DPO: log-probabilities of chosen and rejected chains, and KL to the reference")
    return ["### What the rounds of DPO did", plot]
