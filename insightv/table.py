"""The table that a run ends with: rows of systems, groups of questions, intervals and tests, as text."""

from collections.abc import Sequence
from math import isnan

from rich.console import Console
from rich.table import Table

from insightv.evaluation.compare import Comparison
from insightv.evaluation.figures import SplitTable
from insightv.evaluation.statistics import Rate


def show(tables: Sequence[SplitTable]) -> None:
    """Print every split's table and the tests between its rows."""
    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = 140  # a log has room for the whole table
    for split in tables:
        console.print(_rows(split), _tests(split))


def _rows(split: SplitTable) -> Table:
    groups = list(dict.fromkeys(group for row in split.rows for group in row.groups))
    items = split.rows[0].micro.n if split.rows else 0
    table = Table(title=f"{split.split} split, {items} problems: accuracy in %, macro average over families with 95% interval", title_justify="left")
    table.add_column("system")
    for name in ("macro", *groups, "fixed", "misled", "unparsed", "tokens"):
        table.add_column(name, justify="right")
    for row in split.rows:
        agreement = split.agreements.get(row.system)
        rates = [_share(agreement.fix_rate), _share(agreement.mislead_rate)] if agreement else ["", ""]
        shares = [_share(row.groups[group]) if group in row.groups else "" for group in groups]
        table.add_row(row.system, _rate(row.macro), *shares, *rates, str(row.unparsed), f"{row.tokens:.0f}")
    return table


def _tests(split: SplitTable) -> Table:
    table = Table(title="paired differences in points, exact McNemar test", title_justify="left")
    for name in ("comparison", "difference", "p", "p (Holm)", "helped", "hurt", "detectable"):
        table.add_column(name, justify="left" if name == "comparison" else "right")
    primary = {(c.before, c.after) for c in split.primary}
    for comparison in [*split.primary, *(c for c in (*split.against, *split.between) if (c.before, c.after) not in primary)]:
        table.add_row(*_test(comparison))
    return table


def _test(c: Comparison) -> tuple[str, ...]:
    d = c.difference
    points = f"{100 * d.value:+.1f} [{100 * d.low:+.1f}, {100 * d.high:+.1f}]"
    holm = "" if c.p_holm is None else _p(c.p_holm)
    return f"{c.after} - {c.before}", points, _p(c.p), holm, str(len(c.helped)), str(len(c.hurt)), f"{100 * c.detectable:.1f}"


def _p(p: float) -> str:
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def _share(rate: Rate) -> str:
    return "" if isnan(rate.value) else f"{100 * rate.value:.1f}"


def _rate(rate: Rate) -> str:
    return f"{_share(rate)} [{_share(Rate(rate.low, 0, 0, 0))}, {_share(Rate(rate.high, 0, 0, 0))}]"
