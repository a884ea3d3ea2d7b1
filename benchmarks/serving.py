"""Our server under load, beside the least that can stand in its place: latencies, memory, and what clients that leave leave behind.

Both stand in front of the same two stub servers, which write at a fixed rate, and take turns under the same clients.
"""

import argparse
import asyncio
import contextlib
import datetime
import os
import platform
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp
import orjson
import PIL.Image
import yaml

from benchmarks import served
from benchmarks.engines.measure import cpu_seconds, status
from benchmarks.engines.report import processor, write
from insightv.images import encode_png, to_data_url

ROOT = Path(__file__).resolve().parents[1]
BEGIN, END = "<!-- serving:begin -->", "<!-- serving:end -->"
RATE, CHAIN, ANSWER = 25, 100, 20


@dataclass
class Load:
    """What clients saw of one server."""

    seconds: list[float] = field(default_factory=list)
    first: list[float] = field(default_factory=list)
    """To the first bytes of the reply's body."""
    errors: list[str] = field(default_factory=list)
    megabytes: list[float] = field(default_factory=list)
    """The process's resident size after each turn."""
    cpu: float = 0.0


def main() -> None:
    """Measure, print, and write what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=60, help="under load, for each server, in turns of a third")
    parser.add_argument("--disconnects", type=int, default=1000)
    parser.add_argument("--write", type=Path)
    given = parser.parse_args()
    with agents() as (reasoner, summarizer), ours(reasoner, summarizer) as (server, pid), relay(reasoner, summarizer) as (plain, other):
        loads = {"relay": Load(), "insightv": Load()}
        for _ in range(3):
            for name, url, process in (("relay", plain, other), ("insightv", server, pid)):
                begun = cpu_seconds(process)
                asyncio.run(under_load(url, given.clients, given.seconds / 3, loads[name]))
                loads[name].cpu += cpu_seconds(process) - begun
                loads[name].megabytes.append(status("VmRSS", process))
        left = asyncio.run(leaving(server, [reasoner, summarizer], given.disconnects, given.clients))
        loads["insightv"].megabytes.append(status("VmRSS", pid))
    text = section(loads, left, given)
    print(text)
    if given.write:
        write(given.write, text, BEGIN, END)


@contextlib.contextmanager
def started(*command: str) -> Iterator[tuple[int, int]]:
    """A process of this interpreter that says its port: the port, and its number."""
    process = subprocess.Popen([sys.executable, "-m", *command], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert process.stdout
    try:
        yield int(process.stdout.readline()), process.pid
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


@contextlib.contextmanager
def agents() -> Iterator[tuple[str, str]]:
    """The base URLs of two stubs."""
    command = ("benchmarks.agents_stub", "--rate", str(RATE), "--chain-tokens", str(CHAIN), "--answer-tokens", str(ANSWER))
    with started(*command) as (one, _), started(*command) as (two, _):
        yield f"http://127.0.0.1:{one}/v1", f"http://127.0.0.1:{two}/v1"


@contextlib.contextmanager
def relay(reasoner: str, summarizer: str) -> Iterator[tuple[str, int]]:
    """The least that does it."""
    with started("benchmarks.relay", reasoner, summarizer) as (port, pid):
        yield f"http://127.0.0.1:{port}/v1", pid


@contextlib.contextmanager
def ours(reasoner: str, summarizer: str) -> Iterator[tuple[str, int]]:
    """`insightv serve` as a user starts it."""
    config = {name: {"endpoint": {"url": url, "model": "m", "concurrency": 1024}} for name, url in (("reasoner", reasoner), ("summarizer", summarizer))}
    path = Path(f"/tmp/serving-{os.getpid()}.yaml")
    path.write_text(yaml.safe_dump({"serve": config}), encoding="utf-8")
    try:
        with served.command("serve", path) as (url, pid):
            yield f"{url}/v1", pid
    finally:
        path.unlink()


def request() -> bytes:
    """A question about a picture of 49 KB."""
    picture = encode_png(PIL.Image.frombytes("RGB", (128, 128), random.Random(0).randbytes(128 * 128 * 3)))
    parts = [{"type": "image_url", "image_url": {"url": to_data_url(picture)}}, {"type": "text", "text": "Which colour?"}]
    return orjson.dumps({"model": "insight-v", "stream": True, "messages": [{"role": "user", "content": parts}]})


async def under_load(url: str, clients: int, seconds: float, load: Load) -> None:
    """So many clients, each of which asks again as soon as it is answered."""
    body, end = request(), time.monotonic() + seconds

    async def client(session: aiohttp.ClientSession) -> None:
        while time.monotonic() < end:
            begun, first, last = time.monotonic(), 0.0, b""
            try:
                async with session.post(f"{url}/chat/completions", data=body, headers={"Content-Type": "application/json"}) as response:
                    async for piece in response.content.iter_any():
                        first, last = first or time.monotonic(), (last + piece)[-64:]
                    if response.status != 200 or b"[DONE]" not in last:
                        load.errors.append(f"{response.status}: {last!r}")
            except (aiohttp.ClientError, OSError, TimeoutError) as error:
                load.errors.append(repr(error))
                continue
            load.first.append(first - begun)
            load.seconds.append(time.monotonic() - begun)

    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0), timeout=aiohttp.ClientTimeout(120)) as session:
        await asyncio.gather(*(client(session) for _ in range(clients)))


async def leaving(url: str, agents: Sequence[str], count: int, at_once: int) -> int:
    """Requests that are still under way at the agents a second after so many clients left in the middle of their reply."""
    body, gate = request(), asyncio.Semaphore(at_once)
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0, force_close=True)) as session:

        async def client(number: int) -> None:
            async with gate, session.post(f"{url}/chat/completions", data=body, headers={"Content-Type": "application/json"}) as response:
                await response.content.readany()
                await asyncio.sleep(number % 7 * 0.05)
                response.close()

        await asyncio.gather(*(client(number) for number in range(count)))
        await asyncio.sleep(1)
        found = [await (await session.get(agent.removesuffix("/v1") + "/open")).json() for agent in agents]
    return sum(found)


def section(loads: dict[str, Load], left: int, given: argparse.Namespace) -> str:
    """What the page says."""
    lines = [
        f"{datetime.date.today()}, Python {platform.python_version()}, {processor()}, {os.cpu_count()} cores",
        "",
        f"{given.clients} clients, {given.seconds:g} s for each, agents at {RATE} tokens a second, chains of {CHAIN} and answers of {ANSWER} tokens",
        "",
        "| server | replies | errors | median s | p99 s | first bytes, median ms | p99 ms | CPU ms a reply | MB after each turn |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]

    def figures(load: Load) -> list[float]:
        return [cut(values, share) for values in (load.seconds, load.first) for share in (0.5, 0.99)]

    for name, load in loads.items():
        total, high, first, first_high = figures(load)
        cells = [len(load.seconds), len(load.errors), f"{total:.2f}", f"{high:.2f}", f"{first * 1e3:.0f}", f"{first_high * 1e3:.0f}"]
        cells += [f"{load.cpu / max(1, len(load.seconds)) * 1e3:.1f}", ", ".join(f"{size:.0f}" for size in load.megabytes)]
        lines.append(f"| {name} | {' | '.join(map(str, cells))} |")
    ratios = [one / other for one, other in zip(figures(loads["insightv"]), figures(loads["relay"]), strict=True)]
    lines += ["", f"Ours over the relay's: median {ratios[0]:.3f}, p99 {ratios[1]:.3f}; first bytes {ratios[2]:.2f} and {ratios[3]:.2f}."]
    lines += [f"{given.disconnects} clients left in the middle of a reply: a second later {left} requests were under way at the agents.", ""]
    return "\n".join(lines) + "".join(f"{error}\n" for load in loads.values() for error in load.errors[:3])


def cut(values: list[float], share: float) -> float:
    """A quantile."""
    return statistics.quantiles(values, n=100)[round(share * 100) - 1]


if __name__ == "__main__":
    main()
