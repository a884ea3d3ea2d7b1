"""The server over real HTTP on loopback, its agents played by a stub."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import PIL.Image
import pytest

from benchmarks.agents_stub import Agents
from benchmarks.served import Served, serve_pair
from insightv.images import encode_png


@pytest.fixture
def served() -> Iterator[Callable[..., Served]]:
    """Start a server: `served(agents, key="", **serve_settings)`."""
    with ExitStack() as stack:

        def start(agents: Agents | None = None, key: str = "", allowed: Callable[[str], bool] | None = None, **settings: Any) -> Served:
            return stack.enter_context(serve_pair(agents or Agents(), key, allowed, **settings))

        yield start


@pytest.fixture(scope="session")
def png() -> bytes:
    """A small picture."""
    return encode_png(PIL.Image.new("RGB", (64, 48), "red"))
