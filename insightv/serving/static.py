"""The pages' files, from memory: a request names one of them, and no path."""

from collections.abc import Awaitable, Callable
from importlib.resources import files

from fastapi import FastAPI
from fastapi.responses import Response

_KINDS = {".html": "text/html", ".js": "text/javascript", ".css": "text/css"}


def add_pages(app: FastAPI) -> None:
    """Serve the chat page at /, and what the pages load beside it."""
    found = {file.name: file.read_bytes() for file in (files(__package__) / "pages").iterdir() if file.name.endswith(tuple(_KINDS))}
    for name, data in found.items():
        path = "/" if name == "chat.html" else f"/pages/{name}"
        app.add_api_route(path, _page(name, data), include_in_schema=False)


def _page(name: str, data: bytes) -> Callable[[], Awaitable[Response]]:
    kind = next(kind for ending, kind in _KINDS.items() if name.endswith(ending))

    async def page() -> Response:
        return Response(data, media_type=f"{kind}; charset=utf-8")

    return page
