"""A Hub on this machine: as much of its HTTP as the real client needs to make repositories and to commit files to them."""

import base64
import hashlib
from collections.abc import Iterator
from typing import Any

import orjson
import pytest
from aiohttp import web

from tests.http_server import served


class Hub:
    """Repositories by `type/owner/name`, and what was asked of them."""

    def __init__(self) -> None:
        self.url = ""
        self.private: dict[str, bool] = {}
        self.files: dict[str, dict[str, bytes]] = {}
        self.large: dict[str, bytes] = {}
        """Large files by digest."""
        self.commits: list[str] = []
        self.puts: list[str] = []
        self.tokens: set[str] = set()
        self.suffixes = (".safetensors", ".parquet")
        """What large files are called."""
        self.refused: set[int] = set()
        """Uploads of large files, counted from 1, that are answered by an error."""

    def app(self) -> web.Application:
        app = web.Application(client_max_size=2**30, middlewares=[self._note])
        repo = "/api/{type:models|datasets}/{owner}/{name}"
        app.add_routes(
            [
                web.post("/api/repos/create", self._create),
                web.post("/api/validate-yaml", self._validate),
                web.get(repo, self._info),
                web.get(repo + "/revision/main", self._info),
                web.get(repo + "/tree/main", self._tree),
                web.post(repo + "/preupload/main", self._preupload),
                web.post(repo + "/commit/main", self._commit),
                web.post("/{rest:.*}.git/info/lfs/objects/batch", self._batch),
                web.put("/lfs/{oid}", self._put),
            ]
        )
        return app

    @web.middleware
    async def _note(self, request: web.Request, handler: Any) -> web.StreamResponse:
        if token := request.headers.get("Authorization"):
            self.tokens.add(token)
        response: web.StreamResponse = await handler(request)
        return response

    def _key(self, request: web.Request) -> str:
        return "{type}/{owner}/{name}".format(**request.match_info)

    async def _create(self, request: web.Request) -> web.Response:
        asked = await request.json()
        key = f"{asked.get('type', 'model')}s/{asked['organization']}/{asked['name']}"
        known = key in self.files
        if not known:
            self.private[key], self.files[key] = asked["visibility"] == "private", {}
        return web.json_response({"url": f"{self.url}/{key.removeprefix('models/')}"}, status=409 if known else 200)

    async def _validate(self, request: web.Request) -> web.Response:
        assert (await request.json())["content"].startswith("---\n")
        return web.json_response({})

    async def _info(self, request: web.Request) -> web.Response:
        key = self._key(request)
        if key not in self.files:
            return web.json_response({"error": "Repository not found"}, status=404, headers={"X-Error-Code": "RepoNotFound"})
        return web.json_response({"id": key.partition("/")[2], "private": self.private[key], "sha": "0" * 40, "siblings": []})

    async def _tree(self, request: web.Request) -> web.Response:
        files = self.files[self._key(request)]
        return web.json_response([{"type": "file", "path": path, "size": len(data), "oid": git_hash(data)} for path, data in files.items()])

    async def _preupload(self, request: web.Request) -> web.Response:
        there = self.files[self._key(request)]
        told = []
        for file in (await request.json())["files"]:
            large = file["path"].endswith(self.suffixes)
            data = there.get(file["path"])
            oid = None if data is None else hashlib.sha256(data).hexdigest() if large else git_hash(data)
            told.append({"path": file["path"], "uploadMode": "lfs" if large else "regular", "shouldIgnore": False, "oid": oid})
        return web.json_response({"files": told})

    async def _batch(self, request: web.Request) -> web.Response:
        objects = []
        for asked in (await request.json())["objects"]:
            action = {} if asked["oid"] in self.large else {"actions": {"upload": {"href": f"{self.url}/lfs/{asked['oid']}"}}}
            objects.append({"oid": asked["oid"], "size": asked["size"], **action})
        return web.json_response({"objects": objects, "transfer": "basic"}, content_type="application/vnd.git-lfs+json")

    async def _put(self, request: web.Request) -> web.Response:
        data, oid = await request.read(), request.match_info["oid"]
        self.puts.append(oid)
        if len(self.puts) in self.refused:
            return web.Response(status=400)
        assert hashlib.sha256(data).hexdigest() == oid
        self.large[oid] = data
        return web.Response()

    async def _commit(self, request: web.Request) -> web.Response:
        key = self._key(request)
        for line in (await request.read()).splitlines():
            change = orjson.loads(line)
            value = change["value"]
            if change["key"] == "file":
                self.files[key][value["path"]] = base64.b64decode(value["content"])
            elif change["key"] == "lfsFile":
                self.files[key][value["path"]] = self.large[value["oid"]]
            elif change["key"] == "deletedFile":
                del self.files[key][value["path"]]
        self.commits.append(key)
        return web.json_response({"commitUrl": f"{self.url}/{key}/commit/{'1' * 40}", "commitOid": "1" * 40})


def git_hash(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A Hub without repositories, and a token for it; large files go by plain HTTP, because the other way ends at servers of its own."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", True)
    monkeypatch.setenv("HF_TOKEN", "hf_ofatest")
    made = Hub()
    with served(made.app()) as made.url:
        yield made
