"""Images of requests: what is taken, what is refused, and that nothing is asked for at addresses that are not public."""

import asyncio
import base64
import io
import struct
import zlib
from collections.abc import Callable
from typing import Any

import PIL.Image
import pytest
from aiohttp import web

from insightv.config import ServeConfig
from insightv.images import encode_png, to_data_url
from insightv.serving import intake
from insightv.serving.intake import HeldImages, Intake
from insightv.serving.replies import ApiError


def read(urls: list[str], allowed: Callable[[str], bool] | None = None, **limits: Any) -> list[bytes]:
    async def go() -> list[bytes]:
        return await Intake(ServeConfig(**limits), allowed).read(urls)

    return asyncio.run(go())


def saved(image: PIL.Image.Image, form: str, **options: Any) -> bytes:
    stream = io.BytesIO()
    image.save(stream, form, **options)
    return stream.getvalue()


def url(data: bytes, kind: str = "png") -> str:
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"


def bomb(width: int, height: int) -> bytes:
    """A PNG whose header alone says how large it is."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    rows = zlib.compress(b"\0" * 1000)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


RED = PIL.Image.new("RGB", (64, 48), "red")
FRAMES = [PIL.Image.new("RGB", (64, 48), (at, 0, 0)) for at in range(0, 250, 25)]
REFUSED: dict[str, tuple[str, str]] = {
    "file": ("file:///etc/passwd", "form data:image"),
    "path": ("/etc/passwd", "form data:image"),
    "no image": ("data:text/html;base64,PHNjcmlwdD4=", "form data:image"),
    "no base64": ("data:image/png;base64,%%%", "not valid base64"),
    "svg": (url(b"<svg xmlns='http://www.w3.org/2000/svg'/>", "svg+xml"), "not a PNG"),
    "gif": (url(saved(RED, "GIF"), "gif"), "not a PNG"),
    "tiff under a png's name": (url(saved(RED, "TIFF")), "not a PNG"),
    "damaged": (url(encode_png(RED)[:-40]), "damaged"),
    "bomb": (url(bomb(60_000, 60_000)), "pixels"),
    "many frames": (url(saved(FRAMES[0], "WEBP", save_all=True, append_images=FRAMES[1:]), "webp"), "more than one frame"),
    "animated png": (url(saved(FRAMES[0], "PNG", save_all=True, append_images=FRAMES[1:])), "more than one frame"),
    "one pixel": (url(encode_png(PIL.Image.new("RGB", (1, 1)))), "1 x 1 pixels"),
    "a thread": (url(encode_png(PIL.Image.new("RGB", (4, 4000)))), "4 x 4000 pixels"),
    "ftp": ("ftp://images.example/a.png", "form data:image"),
    "http": ("http://images.example/a.png", "does not fetch"),
    "upper case": ("HTTP://images.example/a.png", "does not fetch"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_image_of_ours_is_refused_with_its_reason(name: str) -> None:
    given, said = REFUSED[name]
    with pytest.raises(ApiError, match="image 2: .*" + said) as caught:
        read([to_data_url(encode_png(RED)), given])
    assert "Traceback" not in str(caught.value) and "PIL" not in str(caught.value)


def test_the_bytes_are_passed_on_as_they_came() -> None:
    given = [encode_png(RED), saved(RED, "JPEG"), saved(RED, "WEBP")]
    assert read([to_data_url(data) for data in given]) == given


def test_no_more_images_than_the_limit() -> None:
    with pytest.raises(ApiError, match="2 at most"):
        read([to_data_url(encode_png(RED))] * 3, max_images=2)


HOSTILE = [
    "http://127.0.0.1/a.png",
    "http://[::1]/a.png",
    "http://images.example\\@127.0.0.1/a.png",
    "http://127.0.0.1\\@images.example/a.png",
    "http://user:word@images.example/a.png",
    "http://images.example:22/a.png",
    "http://images.example.evil.example/a.png",
    "http://evil.example#images.example",
    "http://evil.example/?images.example",
    "http://images.example%2f@evil.example/",
    "http://2130706433/a.png",
    "http://0x7f.1/a.png",
]


@pytest.mark.parametrize("given", HOSTILE)
def test_a_url_that_leads_elsewhere_is_refused_unasked(given: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Intake, "_fetch", lambda *_: pytest.fail("it was asked for"))
    with pytest.raises(ApiError, match=r"does not fetch|host's name|cannot be read"):
        read([given], image_hosts=("images.example",))


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1",
        "10.0.0.1",
        "192.168.0.1",
        "169.254.169.254",
        "::1",
        "fd00::1",
        "fe80::1%eth0",
        "::ffff:127.0.0.1",
        "0.0.0.0",
        "100.64.0.1",
        "224.0.0.1",
        "2002:7f00:1::",
    ],
)
def test_private_addresses_are_not_public(address: str) -> None:
    assert not intake._public(address)
    assert intake._public("93.184.216.34") and intake._public("2606:2800:220:1::1")


async def _hosted(handler: Any, use: Callable[[int], Any]) -> Any:
    app = web.Application()
    app.router.add_get("/{name}", handler)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        return await use(runner.addresses[0][1])
    finally:
        await runner.cleanup()


@pytest.mark.parametrize("private", [False, True])
@pytest.mark.parametrize("path", ["good.png", "moved.png", "page.html", "large.png", "gone.png"])
def test_an_allowed_host_is_asked_and_its_reply_checked(path: str, private: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """A name that leads to this machine is refused though its host is allowed, unless a test lets it in."""
    asked: list[str] = []

    async def handler(request: web.Request) -> web.Response:
        asked.append(request.match_info["name"])
        match asked[-1]:
            case "good.png":
                return web.Response(body=encode_png(RED), content_type="image/png")
            case "moved.png":
                raise web.HTTPFound("/good.png")
            case "large.png":
                return web.Response(body=b"\x89PNG\r\n\x1a\n" + bytes(2**21))
            case "page.html":
                return web.Response(text="<html>")
        raise web.HTTPNotFound

    async def use(port: int) -> list[bytes]:
        monkeypatch.setattr(intake, "_PORTS", (port,))
        given = Intake(ServeConfig(image_hosts=("localhost",), max_body=1), None if private else lambda _: True)
        return await given.read([f"http://localhost:{port}/{path}"])

    if path == "good.png" and not private:
        assert asyncio.run(_hosted(handler, use)) == [encode_png(RED)]
    else:
        said = {"moved.png": "redirects are not followed", "page.html": "not a PNG", "large.png": "more than 1 MB", "gone.png": "404"}
        with pytest.raises(ApiError, match="could not be fetched" if private else said[path]):
            asyncio.run(_hosted(handler, use))
    assert asked == ([] if private else [path])


def test_images_are_held_as_long_as_a_request_needs_them() -> None:
    held, data = HeldImages(), encode_png(RED)
    with held.holding([data, data]) as names, held.holding([data]):
        assert held.get(names[0]) == data and names[0] == names[1]
    assert held._data == {} and not held._held
