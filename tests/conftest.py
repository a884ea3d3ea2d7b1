"""Tiny checkpoints of the real model classes.

Beside them a teacher that counts what it is asked, and a way to run a plan's stages in this process.
"""

import asyncio
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from aiohttp import web
from hypothesis import settings

from benchmarks.models import save
from insightv import processes
from insightv.config import TeacherDials
from insightv.images import digest
from insightv.plan import make
from insightv.world import teacher
from tests.http_server import served

# How long an example takes says nothing of the code where other work shares the machine.
settings.register_profile("suite", deadline=None)
settings.load_profile("suite")


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The folder of a tiny checkpoint of a class of `benchmarks.models.KINDS`."""
    return cache(lambda kind: save(kind, tmp_path_factory.mktemp("models") / kind))


@pytest.fixture(scope="session")
def tiny_llava(tiny: Callable[[str], Path]) -> Path:
    """A LLaVA checkpoint: 4 features an image."""
    return tiny("llava")


@pytest.fixture(scope="session")
def tiny_llava_next(tiny: Callable[[str], Path]) -> Path:
    """A LLaVA-NeXT checkpoint: anyres tiles."""
    return tiny("llava_next")


@pytest.fixture(scope="session")
def tiny_qwen(tiny: Callable[[str], Path]) -> Path:
    """A Qwen2.5-VL checkpoint: multimodal RoPE."""
    return tiny("qwen2_5_vl")


Asked = Counter[str]
"""How often a teacher answered each request, by the digest of its body."""


@contextmanager
def _counting(dials: TeacherDials) -> Iterator[tuple[str, Asked]]:
    asked: Asked = Counter()

    @web.middleware
    async def count(request: web.Request, handler: Callable[[web.Request], Any]) -> web.StreamResponse:
        response: web.StreamResponse = await handler(request)
        # The probes of a check are not journalled and hold grey pictures or none; the rest is a role's instruction.
        if request.method == "POST" and b'"system"' in (body := await request.read()):
            asked[digest(body)] += 1
        return response

    app = teacher.application(dials)
    app.middlewares.append(count)
    with served(app) as url:
        yield f"{url}/v1", asked


@pytest.fixture
def counting_teacher() -> Iterator[Callable[[TeacherDials], tuple[str, Asked]]]:
    """Start a teacher with these dials in this process; gives its URL and how often it answered each request."""
    with ExitStack() as stack:
        yield lambda dials: stack.enter_context(_counting(dials))


@pytest.fixture(scope="module")
def in_this_process() -> Iterator[None]:
    """Stages that would be processes of their own run here: loading the libraries a dozen times is most of a tiny run."""

    def alone(*arguments: Any) -> None:
        torch.set_num_threads(1)  # as the processes have it: two threads sum in another order, and the last bit of a weight differs
        make(*arguments)

    async def apart(conductor: Any, name: str, report: Any) -> None:
        await asyncio.to_thread(alone, conductor._plan, conductor._run, name, report, conductor._retry_failed)

    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(processes._Conductor, "_apart", apart)
        yield
