"""The applications: the pair's routes with its page, and the viewer's alone."""

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import uvicorn
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import PlainTextResponse, Response
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp

from insightv import __version__
from insightv.serving.data import add_data
from insightv.serving.guard import Guard
from insightv.serving.intake import HeldImages, Intake
from insightv.serving.replies import ApiError, Completion, ErrorReply, Model, ModelList
from insightv.serving.request import ChatRequest
from insightv.serving.service import Service
from insightv.serving.static import add_pages
from insightv.serving.systems import Pair
from insightv.viewing.index import refreshed

_ANY: dict[int | str, dict[str, Any]] = {status: {"model": ErrorReply} for status in (400, 401, 403, 404, 405, 408, 413, 500)}
_ASKING: dict[int | str, dict[str, Any]] = {status: {"model": ErrorReply} for status in (429, 502, 504)}
_FORMS = {("text", "content"), ("text", "stop")}
_STREAM: dict[int | str, dict[str, Any]] = {
    200: {"content": {"text/event-stream": {"schema": {"type": "object", "description": "chat.completion.chunk as data of each event"}}}}
}


def create_app(pair: Pair, images: HeldImages, key: str = "", allowed: Callable[[str], bool] | None = None, run: Path | None = None) -> ASGIApp:
    """The server of a pair whose agents read images from `images`; every route asks for `key` unless it is empty.

    `allowed` is `Intake`'s. The data of `run`, if there is one, is shown at /data.
    """
    app = _bare()
    add_pages(app, {"/": "chat.html"} | ({"/data": "data.html"} if run else {}))
    if run:
        add_data(app, run, refreshed(run))
    service = Service(pair, images, Intake(pair.serve, allowed))
    created = int(time.time())

    @app.post("/v1/chat/completions", response_model=Completion, responses=_ASKING | _STREAM)
    async def chat(asked: ChatRequest, request: Request) -> Response:
        """Reason about the images, then answer."""
        return await service.answer(asked, request.state.request_id, request.receive)

    @app.get("/v1/models")
    async def models() -> ModelList:
        """The models that can be asked for."""
        return ModelList(data=[Model(id=name, created=created) for name in pair.names])

    @app.get("/v1/models/{name:path}")
    async def model(name: str) -> Model:
        """One of them."""
        if pair.read_name(name)[1] > pair.serve.max_n:
            raise ApiError(404, f"this server writes {pair.serve.max_n} chains at most", "name")
        return Model(id=name, created=created)

    @app.get("/metrics", response_class=PlainTextResponse)
    async def metrics() -> Response:
        """Counters for Prometheus."""
        return PlainTextResponse(service.metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")

    return Guard(app, key, pair.serve.max_body)


def create_viewer(run: Path, key: str = "") -> ASGIApp:
    """The viewer of a run's data alone, at /data and at /."""
    app = _bare()
    add_pages(app, {"/": "data.html", "/data": "data.html"})
    add_data(app, run, refreshed(run))
    return Guard(app, key, max_body=1)


def _bare() -> FastAPI:
    """An application whose errors are all of one form. It has no pages of documentation: those load code from other hosts."""
    app = FastAPI(title="Insight-V", version=__version__, docs_url=None, redoc_url=None, responses=_ANY)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(Exception, _broken)
    for known in (HTTPException, ApiError):
        app.add_exception_handler(known, _refused)

    @app.get("/health")
    async def health() -> dict[str, str]:
        """That the server is there."""
        return {"status": "ok"}

    return app


def listening(app: ASGIApp, host: str, port: int) -> uvicorn.Server:
    """A server of an application, to be run by `serve()`: when it is ended, requests under way have ten seconds."""
    return uvicorn.Server(uvicorn.Config(app, host, port, log_level="warning", access_log=False, server_header=False, timeout_graceful_shutdown=10))


async def _invalid(request: Request, error: Exception) -> Response:
    """A request that is not of the form asked for: the first thing that is wrong with it, in one line."""
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    # The value itself is not told back: it may be an image of megabytes.
    names = [str(part) for part in first["loc"][1:]]
    # Forms of a union stand among the names of fields, and a part's form has the name of its field.
    place = ".".join(name for name, before in zip(names, ["", *names], strict=False) if name != before and not (name == "list" or (name, before) in _FORMS))
    said = str(first["ctx"]["error"]) if first["type"] == "value_error" else first["msg"]
    return _reply(request, ApiError(400, (f"{place[:100]}: {said}" if place else said)[:400], place[:100] or None))


async def _refused(request: Request, error: Exception) -> Response:
    if isinstance(error, HTTPException):
        return _reply(request, ApiError(error.status_code, str(error.detail)), error.headers)
    assert isinstance(error, ApiError)
    return _reply(request, error, {"Retry-After": "1"} if error.status == 429 else None)


async def _broken(request: Request, _: Exception) -> Response:
    """What it was stands in the server's log alone."""
    return _reply(request, ApiError(500, "the server failed; its log has the reason under this request's id"))


def _reply(request: Request, error: ApiError, headers: Mapping[str, str] | None = None) -> Response:
    return Response(error.body(request.state.request_id), error.status, headers, "application/json")
