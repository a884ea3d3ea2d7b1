"""Dividing a number of rows among parts that may be scarce."""

from collections.abc import Mapping


def divide(total: int, weights: Mapping[str, float], available: Mapping[str, int]) -> dict[str, int]:
    """Counts per part, in proportion to `weights` by largest remainder, none above what is available.

    What a scarce part cannot give is taken from the others, in their proportions; the sum is below `total` only when
    everything with a positive weight is used up. Ties go to the part named first.
    """
    counts = dict.fromkeys(weights, 0)
    while (left := total - sum(counts.values())) > 0:
        open_parts = {name: weight for name, weight in weights.items() if weight > 0 and counts[name] < available[name]}
        if not open_parts:
            break
        whole = sum(open_parts.values())
        exact = {name: left * weight / whole for name, weight in open_parts.items()}
        extra = {name: int(value + 1e-9) for name, value in exact.items()}
        by_remainder = sorted(exact, key=lambda name: extra[name] - exact[name])
        for name in by_remainder[: left - sum(extra.values())]:
            extra[name] += 1
        for name, more in extra.items():
            counts[name] = min(available[name], counts[name] + more)
    return counts
