"""What a request meets, as a function of its row, step and attempt alone: every engine has the same weather, and so has the ideal.

The standard library alone: the stub runs it, the tests import it, and the peers' environments have nothing else of ours.
"""

import hashlib
import json
from dataclasses import asdict, dataclass
from typing import Literal, NamedTuple

Kind = Literal["ok", "429", "500", "reset", "malformed", "400"]
SHAPES = ("garbage", "truncated", "no choices")
"""How a malformed body is malformed, drawn by lot."""


@dataclass(frozen=True)
class Settings:
    """A server's weather. Shares are of requests, but those of poison, which are of rows."""

    seed: int = 0
    latency: int = 200
    """Milliseconds of most requests, give or take `spread` of it, uniformly."""
    spread: float = 0.3
    slow_share: float = 0.02
    slow: int = 2000
    """Milliseconds of the slow ones, with the same spread."""
    too_many: float = 0.0
    """Share answered 429 at once."""
    retry_after: int | None = None
    """Seconds in the header of every 429; None sends none."""
    server_error: float = 0.0
    """Share answered 500, after the latency."""
    reset: float = 0.0
    """Share whose connection is reset, after the latency."""
    malformed: float = 0.0
    """Share answered 200 with a body that is no completion."""
    refused_rows: float = 0.0
    """Share of rows that are always 400, at once."""
    failing_rows: float = 0.0
    """Share of rows that are always 500, after the latency."""
    capacity: int = 0
    """Requests in flight beyond which the answer is 429 at once; 0 is no limit."""
    down: tuple[tuple[float, float, Literal["closed", "broken"]], ...] = ()
    """Outages: (seconds after the first request, seconds long, way). `closed` refuses connections, `broken` accepts them and breaks off."""
    steps: int = 4
    """Steps of a chain before its conclusion; the last of them has the action `summary`."""

    def to_json(self) -> str:
        """For the stub's command line."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> "Settings":
        """The inverse of `to_json`."""
        values = json.loads(text)
        return cls(**values | {"down": tuple((at, long, way) for at, long, way in values.get("down", ()))})


class Weather(NamedTuple):
    """What one request meets."""

    kind: Kind
    milliseconds: int
    """Whole ones, since that is what the server's timers can do; the ideal reckons with the same."""
    lot: int
    """0..2^16-1, for what else is to be drawn."""


def weather(settings: Settings, row: int, step: int, attempt: int) -> Weather:
    """The weather of the `attempt`th request (from 1) for a row's step, without capacity and outages, which depend on others."""
    draws = hashlib.blake2b(b"%d %d %d %d" % (settings.seed, row, step, attempt), digest_size=16).digest()
    slow, spread, fault, lot = (int.from_bytes(draws[i : i + 4], "little") / 2**32 for i in range(0, 16, 4))
    middle = settings.slow if slow < settings.slow_share else settings.latency
    milliseconds = round(middle * (1 + settings.spread * (2 * spread - 1)))
    kind = _kind(settings, row, fault)
    return Weather(kind, 0 if kind in ("429", "400") else milliseconds, int(lot * 2**16))


def poison(settings: Settings, row: int) -> Kind:
    """`400` or `500` for a row that always gets it, else `ok`."""
    if not settings.refused_rows and not settings.failing_rows:
        return "ok"
    lot = int.from_bytes(hashlib.blake2b(b"%d poison %d" % (settings.seed, row), digest_size=4).digest(), "little") / 2**32
    return "400" if lot < settings.refused_rows else "500" if lot < settings.refused_rows + settings.failing_rows else "ok"


def _kind(settings: Settings, row: int, lot: float) -> Kind:
    lasting = poison(settings, row)
    if lasting != "ok":
        return lasting
    shares: tuple[tuple[Kind, float], ...] = (
        ("429", settings.too_many),
        ("500", settings.server_error),
        ("reset", settings.reset),
        ("malformed", settings.malformed),
    )
    for kind, share in shares:
        if lot < share:
            return kind
        lot -= share
    return "ok"
