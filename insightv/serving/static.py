"""The pages' files, from memory: a request names one of them, and no path."""

from collections.abc import Awaitable, Callable, Mapping
from importlib.resources import files

from fastapi import FastAPI
from fastapi.responses import Response

_KINDS = {".html": "text/html", ".js": "text/javascript", ".css": "text/css"}


def add_pages(app: FastAPI, pages: Mapping[str, str]) -> None:
    """Serve pages by their paths, as in {"/": "chat.html"}, and what they load beside them."""
    found = {file.name: file.read_bytes() for file in (files(__package__) / "pages").iterdir() if file.name.endswith(tuple(_KINDS))}
    places = dict(pages) | {f"/pages/{name}": name for name in found if not name.endswith(".html")}
    for path, name in places.items():
        app.add_api_route(path, _page(name, found[name]), include_in_schema=False)


def _page(name: str, data: bytes) -> Callable[[], Awaitable[Response]]:
    kind = next(kind for ending, kind in _KINDS.items() if name.endswith(ending))

    async def page() -> Response:
        return Response(data, media_type=f"{kind}; charset=utf-8")

    return page
