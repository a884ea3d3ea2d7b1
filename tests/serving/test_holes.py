"""Holes that servers of this kind have had: each attack fails here, and succeeds against a copy of the handler without its guard."""

import asyncio
import base64
import io
import json
import pickle
import shutil
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import httpx2
import PIL.Image
import pytest
import torch
from aiohttp import web
from safetensors.torch import load_file
from yarl import URL

from benchmarks.agents_stub import Agents
from insightv import hosting, images
from insightv.config import UserError
from insightv.images import encode_png, to_data_url
from insightv.models import vlm
from insightv.serving import guard, intake, request, service
from insightv.serving.replies import ApiError

Start = Callable[..., Any]
Weaken = Callable[[pytest.MonkeyPatch], None]


def ask(server: Any, *urls: str, **more: Any) -> httpx2.Response:
    parts = [*({"type": "image_url", "image_url": {"url": url}} for url in urls), {"type": "text", "text": "Which?"}]
    body = {"model": "insight-v", "messages": [{"role": "user", "content": parts}]} | more
    return httpx2.post(f"{server.url}/v1/chat/completions", json=body, headers=server.headers, timeout=30)


def png(width: int = 64, height: int = 48, mode: str = "RGB") -> bytes:
    return encode_png(PIL.Image.new(mode, (width, height)))


@contextmanager
def inner(replies: dict[str, Callable[[], web.StreamResponse]]) -> Iterator[tuple[int, list[str]]]:
    """A server on this machine that only this machine should reach: its port, and what it was asked for."""
    asked: list[str] = []

    async def handler(found: web.Request) -> web.StreamResponse:
        asked.append(found.path)
        return replies.get(found.path, lambda: web.Response(body=png()))()

    with running(handler) as port:
        yield port, asked


@contextmanager
def running(handler: Callable[[web.Request], Any]) -> Iterator[int]:
    loop, ready, end, port = asyncio.new_event_loop(), threading.Event(), asyncio.Event(), list[int]()

    async def serve() -> None:
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", handler)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        port.append(runner.addresses[0][1])
        ready.set()
        await end.wait()
        await runner.cleanup()

    thread = threading.Thread(target=lambda: loop.run_until_complete(serve()))
    thread.start()
    ready.wait(10)
    try:
        yield port[0]
    finally:
        loop.call_soon_threadsafe(end.set)
        thread.join()
        loop.close()


def any_port(monkeypatch: pytest.MonkeyPatch) -> None:
    """Test servers have no port of the web's own."""
    monkeypatch.setattr(intake, "_PORTS", {*range(1, 2**16)})


# Attacks: each gets a way to start the server, and says whether it came through.


def private_name(start: Start) -> bool:
    """An allowed name that resolves to an address of the inside."""
    with inner({}) as (port, asked):
        ask(start(image_hosts=("localhost",)), f"http://localhost:{port}/admin")
    return bool(asked)


def private_address(start: Start) -> bool:
    with inner({}) as (port, asked):
        ask(start(image_hosts=("images.example",), allowed=lambda _: True), f"http://127.0.0.1:{port}/admin")
    return bool(asked)


def backslash(start: Start) -> bool:
    """Two readings of one URL: the check sees a host that is allowed, the connection goes elsewhere."""
    with inner({}) as (port, asked):
        ask(start(image_hosts=("images.example",), allowed=lambda _: True), f"http://127.0.0.1:{port}\\@images.example/admin")
    return bool(asked)


def redirect(start: Start) -> bool:
    def moved() -> web.StreamResponse:
        return web.Response(status=302, headers={"Location": "/admin"})

    with inner({"/a.png": moved}) as (port, asked):
        ask(start(image_hosts=("localhost",), allowed=lambda _: True), f"http://localhost:{port}/a.png")
    return "/admin" in asked


def endless(start: Start) -> bool:
    """A reply of any size."""
    with inner({"/a.png": lambda: web.Response(body=png() + bytes(3 * 2**20))}) as (port, _):
        return ask(start(image_hosts=("localhost",), allowed=lambda _: True, max_body=1), f"http://localhost:{port}/a.png").status_code == 200


def file_url(start: Start, path: Path = Path(__file__).parent / "secret.png") -> bool:
    path.write_bytes(png())
    try:
        server = start()
        ask(server, path.as_uri())
        return bool(server.agents.bodies)
    finally:
        path.unlink()


def other_format(start: Start) -> bool:
    stream = io.BytesIO()
    PIL.Image.new("RGB", (64, 48)).save(stream, "GIF")
    server = start()
    ask(server, to_data_url(png()), "data:image/gif;base64," + base64.b64encode(stream.getvalue()).decode())
    return bool(server.agents.bodies)


def bomb(start: Start) -> bool:
    """A small file of very many pixels."""
    return ask(start(max_pixels=10_000_000), to_data_url(png(4000, 4000, "1"))).status_code == 200


def frames(start: Start) -> bool:
    stream = io.BytesIO()
    first, *others = [PIL.Image.new("RGB", (64, 48), (at, 0, 0)) for at in range(200)]
    first.save(stream, "WEBP", save_all=True, append_images=others)
    return ask(start(), to_data_url(stream.getvalue())).status_code == 200


def one_pixel(start: Start) -> bool:
    return ask(start(), to_data_url(png(1, 1))).status_code == 200


def leak(start: Start) -> bool:
    """Pillow's own words name an object and its address in memory."""
    return "object at 0x" in ask(start(), to_data_url(b"\xff\xd8\xff")).text


def inner_error(start: Start) -> bool:
    """What a server of a model says is its own business."""
    return "SECRET" in ask(start(Agents({"reasoner": 400}))).text


def many_choices(start: Start) -> bool:
    server = start(max_n=4)
    ask(server, n=40)
    return len(server.agents.bodies) > 8


def many_images(start: Start) -> bool:
    return ask(start(max_images=2), *[to_data_url(png())] * 20).status_code == 200


def many_tokens(start: Start) -> bool:
    server = start(max_tokens=100)
    ask(server, max_tokens=10**6)
    return any(body["max_tokens"] == 10**6 for body in server.agents.bodies)


def large_body(start: Start) -> bool:
    return ask(start(max_body=1), to_data_url(png() + bytes(2 * 2**20))).status_code == 200


def same_hash(start: Start) -> bool:
    """Two images whose pixels are the same bytes in another shape."""
    server = start()
    ask(server, to_data_url(png(64, 48)), to_data_url(png(48, 64)))
    sent = [part["image_url"]["url"] for part in server.agents.bodies[0]["messages"][-1]["content"] if part["type"] == "image_url"]
    return len(set(sent)) == 1


def template(start: Start) -> bool:
    """A template that the client brings would run on the model's server."""
    server = start()
    more = {"chat_template": "{{ ''.__class__ }}", "mm_processor_kwargs": {"x": 1}, "guided_json": {}, "continue_final_message": True}
    ask(server, chat_template_kwargs=more, **more)
    return any({"chat_template_kwargs", *more} & set(body) for body in server.agents.bodies)


def no_key(start: Start) -> bool:
    server = start(key="a key")
    return any(httpx2.get(server.url + path).status_code != 401 for path in ("/metrics", "/v1/models", "/health", "/nothing", "/openapi.json"))


def rebound_name(start: Start) -> bool:
    """A foreign page's own name that now leads here."""
    return httpx2.get(f"{start().url}/v1/models", headers={"Host": "evil.example"}).status_code == 200


def foreign_page(start: Start) -> bool:
    headers = {"Origin": "https://evil.example", "Content-Type": "application/json"}
    body = json.dumps({"model": "insight-v", "messages": [{"role": "user", "content": "hi"}]})
    return httpx2.post(f"{start().url}/v1/chat/completions", content=body, headers=headers).status_code == 200


def surrogate(start: Start) -> bool:
    """Half a character in a text makes whoever encodes it fail."""
    body = b'{"model": "insight-v", "messages": [{"role": "user", "content": "\\ud800"}]}'
    answered = httpx2.post(f"{start().url}/v1/chat/completions", content=body, headers={"Content-Type": "application/json"})
    return answered.status_code >= 500


# What the guards are, and how the copies lack them.


def unguarded_decode(data: bytes, max_pixels: int = 0) -> PIL.Image.Image:
    image = PIL.Image.open(io.BytesIO(data))
    image.load()
    return image.convert("RGB")


def reading(text: str, _: Any) -> URL:
    return URL(text)


def two_readings(text: str, hosts: Any) -> URL:
    if urlsplit(text).hostname not in hosts:
        raise ApiError(400, "not allowed")
    return URL(text.replace("\\", "/"))


def following(monkeypatch: pytest.MonkeyPatch) -> None:
    real = aiohttp.ClientSession.get
    monkeypatch.setattr(aiohttp.ClientSession, "get", lambda self, url, allow_redirects: real(self, url, allow_redirects=True))


def reading_files(monkeypatch: pytest.MonkeyPatch) -> None:
    real = images.from_data_url
    monkeypatch.setattr(intake, "from_data_url", lambda url: Path(URL(url).path).read_bytes() if url.startswith("file:") else real(url))


def echoing(monkeypatch: pytest.MonkeyPatch) -> None:
    def decode(data: bytes, max_pixels: int) -> PIL.Image.Image:
        try:
            return unguarded_decode(data)
        except Exception as error:
            raise images.ImageError(str(error)) from None

    monkeypatch.setattr(intake, "decode", decode)


def forwarding(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(request.ChatRequest.model_config, "extra", "allow")
    request.ChatRequest.model_rebuild(force=True)
    real = service.answer

    def answer(pair: Any, model: str, asked: Any, select: str, seed: int) -> Any:
        extra = {"chat_template": "{{ x }}"}
        pair.reasoner._config = pair.reasoner._config.model_copy(update={"extra": extra})
        return real(pair, model, asked, select, seed)

    monkeypatch.setattr(service, "answer", answer)


def by_pixels(data: bytes) -> str:
    return images.digest(PIL.Image.open(io.BytesIO(data)).tobytes())


@dataclass(frozen=True)
class Hole:
    attack: Callable[[Start], bool]
    weaken: Weaken


def patched(place: Any, name: str, value: Any) -> Weaken:
    return lambda monkeypatch: monkeypatch.setattr(place, name, value)


def never(*_: Any) -> None:
    """A check that finds nothing."""


HOLES: dict[str, Hole] = {
    "private name (CVE-2025-6242)": Hole(private_name, patched(intake, "_public", lambda _: True)),
    "private address (CVE-2026-25960)": Hole(private_address, patched(intake, "_read_url", reading)),
    "backslash (CVE-2026-24779)": Hole(backslash, patched(intake, "_read_url", two_readings)),
    "redirect": Hole(redirect, following),
    "endless reply": Hole(endless, patched(intake, "_MEGABYTE", 2**40)),
    "file URL": Hole(file_url, reading_files),
    "other format": Hole(other_format, lambda m: (m.setattr(images, "media_type", lambda _: "image/png"), m.setattr(intake, "decode", unguarded_decode))[0]),
    "bomb": Hole(bomb, patched(intake, "decode", unguarded_decode)),
    "many frames (CVE-2026-5497)": Hole(frames, patched(intake, "decode", unguarded_decode)),
    "one pixel (CVE-2026-22773)": Hole(one_pixel, patched(intake, "_SMALLEST", 0)),
    "Pillow's words (CVE-2026-22778)": Hole(leak, echoing),
    "a server's words": Hole(inner_error, patched(service, "_failed", lambda error: ApiError(502, str(error)))),
    "huge n (CVE-2026-34756)": Hole(many_choices, patched(service.Service, "_refuse_too_much", never)),
    "many images": Hole(many_images, lambda m: m.setattr(intake, "len", lambda _: 0, raising=False)),
    "many tokens": Hole(many_tokens, lambda m: m.setattr(request, "_decoding", unlimited(request._decoding))),
    "large body": Hole(large_body, patched(guard, "_MEGABYTE", 2**40)),
    "hash of pixels (CVE-2025-46722)": Hole(same_hash, patched(intake, "digest", by_pixels)),
    "client's template": Hole(template, forwarding),
    "no key": Hole(no_key, patched(guard.Guard, "_admit", never)),
    "rebound name": Hole(rebound_name, patched(guard, "is_loopback", lambda _: True)),
    "foreign page": Hole(foreign_page, patched(guard.Guard, "_admit", never)),
    "half a character": Hole(surrogate, patched(request._utf8, "__code__", (lambda text: text).__code__)),
}


def unlimited(decoding: Any) -> Any:
    return lambda asked, settings, limits: decoding(asked, settings, limits.model_copy(update={"max_tokens": 10**9}))


@pytest.fixture
def start(served: Start, monkeypatch: pytest.MonkeyPatch) -> Start:
    any_port(monkeypatch)
    return served


@pytest.mark.parametrize("name", HOLES)
def test_the_attack_fails(name: str, start: Start) -> None:
    assert not HOLES[name].attack(start)


@pytest.mark.parametrize("name", HOLES)
def test_without_its_guard_the_attack_succeeds(name: str, start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    HOLES[name].weaken(monkeypatch)
    assert HOLES[name].attack(start)


@pytest.mark.parametrize("host", ["0.0.0.0", "192.168.1.5", "::", "models.example"])
def test_a_public_address_without_a_key_is_refused(host: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And served only where somebody says so."""
    config = tmp_path / "pair.yaml"
    config.write_text("serve:\n  reasoner: &agent {endpoint: {url: 'http://127.0.0.1:9/v1'}}\n  summarizer: *agent\n")
    monkeypatch.delenv("INSIGHTV_API_KEY", raising=False)
    begun: list[str] = []

    async def begin(config: Any, run: Any, host: str, *_: Any) -> None:
        begun.append(host)

    monkeypatch.setattr(hosting, "_serve", begin)
    with pytest.raises(UserError, match="INSIGHTV_API_KEY"):
        hosting.serve(config, (), host, 0, without_key=False, say=print)
    hosting.serve(config, (), host, 0, without_key=True, say=print)
    monkeypatch.setenv("INSIGHTV_API_KEY", "a key")
    hosting.serve(config, (), host, 0, without_key=False, say=print)
    assert begun == [host, host]


class Payload:
    """What runs when a pickle is read."""

    def __reduce__(self) -> Any:
        return (Path.touch, (Path("owned"),))


def test_weights_that_can_run_code_are_not_read(tiny_llava: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """CVE-2025-32434: a checkpoint is safetensors or nothing; who reads pickles runs them."""
    monkeypatch.chdir(tmp_path)
    folder = shutil.copytree(tiny_llava, tmp_path / "model")
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    torch.save(weights | {"payload": Payload()}, folder / "pytorch_model.bin")
    with pytest.raises(UserError, match="safetensors"):
        vlm.load(folder, device="cpu")
    assert not Path("owned").exists()
    pickle.loads(pickle.dumps(Payload()))
    assert Path("owned").exists()


def test_a_port_that_others_have_is_one_line_before_anything_is_loaded(tmp_path: Path) -> None:
    config = tmp_path / "pair.yaml"
    config.write_text("serve:\n  reasoner: &agent {endpoint: {url: 'http://127.0.0.1:9/v1'}}\n  summarizer: *agent\n")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(UserError, match=rf"cannot listen at 127\.0\.0\.1:{port}: Address already in use; give another port"):
            hosting.serve(config, (), "127.0.0.1", port, without_key=False, say=print)
