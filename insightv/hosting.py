"""Serve the agents of a run or a config: open them, and answer until Ctrl-C."""

import asyncio
import os
import socket
import sys
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path

from insightv.config import AgentConfig, Config, EndpointConfig, UserError
from insightv.config_file import load_config
from insightv.loop import is_method, row_of
from insightv.models.chat import Chat
from insightv.models.endpoint import Endpoint
from insightv.serving.guard import is_loopback
from insightv.serving.intake import HeldImages
from insightv.serving.systems import Pair
from insightv.showing import saved
from insightv.stages.context import Context
from insightv.store import Run

_WAITING = 2048
"""Connections that wait while agents are loaded."""


def serve(place: Path, overrides: Iterable[str], host: str, port: int, *, without_key: bool, say: Callable[[str], None]) -> None:
    """Answer at http://HOST:PORT/v1 as the agents of a run's folder or of a config, until Ctrl-C; `say` hears where."""
    config = settings(place, overrides)
    key = _key(config.serve.api_key_env, host, without_key)
    with suppress(KeyboardInterrupt):
        asyncio.run(_serve(config, place if place.is_dir() else None, host, port, key, say))


def view(run: Path, host: str, port: int, *, without_key: bool, say: Callable[[str], None]) -> None:
    """Show a run's data at http://HOST:PORT/data until Ctrl-C; `say` hears where."""
    from insightv.serving.api import create_viewer, listening

    key = _key(saved(run).serve.api_key_env, host, without_key)
    door = _bound(host, port)
    say(f"reading {run}; the first time this takes a minute for some hundred thousand chains")
    server = listening(create_viewer(run, key), host, port)
    say(f"{run} is shown at http://{_shown(host)}:{port}/data{' with the key' if key else ''}; Ctrl-C ends it")
    with suppress(KeyboardInterrupt):
        asyncio.run(server.serve(sockets=[door]))


def settings(place: Path, overrides: Iterable[str]) -> Config:
    """The config at a path, or that of the run in a folder, its agents found."""
    inside = place.is_dir()
    config = saved(place, "; give a run's folder, or a config that says where the agents are", overrides) if inside else load_config(place, overrides)
    run = place if inside else config.run
    found = {name: _agent(config, run, name) for name in ("reasoner", "summarizer")}
    return config.model_copy(update={"serve": config.serve.model_copy(update=found)})


def trained(config: Config, run: Path) -> tuple[str, str]:
    """The names of the run's last pair: reasoner and summary agent."""
    pairs = [row for row in config.systems.rows if is_method(row)]
    reasoner, summarizer = row_of(pairs[-1], config)[1] if pairs else ("reasoner", "summarizer")
    missing = [name for name in (reasoner, summarizer) if not (run / name / "manifest.json").is_file()]
    if missing:
        raise UserError(f"{run} has no trained {' and no '.join(missing)} yet; finish the run first")
    return reasoner, summarizer


@asynccontextmanager
async def opened(config: Config, images: HeldImages) -> AsyncIterator[Pair]:
    """The pair that a config's `serve` describes, for the block."""
    async with AsyncExitStack() as stack:

        async def kept(chat: Chat) -> Chat:
            stack.push_async_callback(chat.close)
            return chat

        agents = _open(config, [config.serve.reasoner, config.serve.summarizer], images)
        reasoner, summarizer = [await kept(agent) for agent in agents]
        judge = await kept(_endpoint(config, config.serve.judge, images)) if config.serve.judge else None
        yield Pair(reasoner, summarizer, judge, config.systems, config.prompts, config.serve)


async def _serve(config: Config, run: Path | None, host: str, port: int, key: str, say: Callable[[str], None]) -> None:
    from insightv.serving.api import create_app, listening

    images, door = HeldImages(), _bound(host, port)
    async with opened(config, images) as pair:
        server = listening(create_app(pair, images, key, run=run), host, port)
        say(f"{pair.names[0]} answers at http://{_shown(host)}:{port}/v1{' with the key' if key else ''}; Ctrl-C ends it")
        await server.serve(sockets=[door])


def _key(variable: str, host: str, without_key: bool) -> str:
    """The key that requests must bring; none at an address that others reach is a `UserError`, unless it is meant."""
    key = os.environ.get(variable, "")
    if not key and not is_loopback(host) and not without_key:
        raise UserError(f"at {host} others could use this server: set a key in {variable}, or say --no-key if a proxy before it asks for one")
    return key


def _bound(host: str, port: int) -> socket.socket:
    """A socket at this address, taken before anything is loaded; one that others have is a `UserError`."""
    door = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    door.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        door.bind((host, port))
        # Two that only have it could both go on to load their weights.
        door.listen(_WAITING)
    except OSError as error:
        door.close()
        raise UserError(f"cannot listen at {_shown(host)}:{port}: {error.strerror or error}; give another port by --port") from None
    return door


def _shown(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def _agent(config: Config, run: Path, name: str) -> AgentConfig:
    """Where an agent lives: as the config says, else in the run."""
    agent: AgentConfig = getattr(config.serve, name)
    if agent.endpoint or agent.path:
        return agent
    reasoner, summarizer = trained(config, run)
    path, adapter = Context(config, Run(run), lambda _: None).model(reasoner if name == "reasoner" else summarizer)
    return AgentConfig(path=path, adapter=adapter)


def _open(config: Config, agents: Sequence[AgentConfig], images: HeldImages) -> list[Chat]:
    """The agents in their order; those of this process share what they can."""
    places = [(agent.path, agent.adapter) for agent in agents if agent.path]
    local: Iterator[Chat] = iter(())
    if places:
        from insightv.models.pair import open_agents

        print(f"loading {' and '.join(str(adapter or path) for path, adapter in places)}", file=sys.stderr)
        local = iter(open_agents(places, images, config.local))
    return [_endpoint(config, agent.endpoint, images) if agent.endpoint else next(local) for agent in agents]


def _endpoint(config: Config, endpoint: EndpointConfig, images: HeldImages) -> Endpoint:
    # A chain may take as long as its request.
    return Endpoint(endpoint.model_copy(update={"timeout": max(endpoint.timeout, config.serve.timeout)}), images, None)
