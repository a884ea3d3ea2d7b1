"""The viewer's routes: a run's chains, problems, pairs and pictures, as the index over its files has them."""

import json
import logging
import re
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

from fastapi import FastAPI, Query
from fastapi.responses import Response, StreamingResponse
from pydantic import Field

from insightv import corrections
from insightv.config import UserError
from insightv.images import media_type
from insightv.records import Correction
from insightv.serving.replies import ApiError
from insightv.serving.request import Words
from insightv.store import ImageStore
from insightv.viewing.find import Filters, Viewer
from insightv.viewing.index import refreshed, stale

log = logging.getLogger(__name__)

Json = dict[str, Any]
_ROUND = re.compile(r"dpo[1-9]\d{0,3}")
_MOMENT = 2.0
_LOGGED = ("step", "loss", "margin", "accuracy", "kl", "reward_chosen", "reward_rejected")


class ByHand(Correction):
    """A correction as somebody at the page makes it."""

    note: Words = Field("", max_length=2000)


class Page(Filters):
    """A selection, and where its page begins."""

    after: str = ""
    """The last page's `next`: its two numbers with a comma between; the first may be empty."""
    at: str = ""
    """A chain to begin with instead."""


def add_data(app: FastAPI, run: Path, index: Path) -> None:
    """Add the routes of one run below /data, whose page is static.py's."""
    viewer, images, renewal = Viewer(index), ImageStore(run / "images"), Renewal(run)

    @app.get("/data/facets")
    def facets() -> Json:
        """What there is to choose from, the run's name, and whether it has changed and is just being indexed anew."""
        refreshing = renewal.under_way()
        return {"run": run.resolve().name, "refreshing": refreshing, **viewer.facets()}

    @app.get("/data/chains")
    def chains(page: Annotated[Page, Query()]) -> Json:
        """A page of chains, each with what was said of it by hand."""
        hand = corrections.read(run)
        found = viewer.chains(page, _place(page.after), page.at, hand)
        for row in found["rows"]:
            row["hand"] = (said := hand.get(row["id"])) and said.model_dump()
        return found

    @app.get("/data/export")
    def export(filters: Annotated[Filters, Query()]) -> StreamingResponse:
        """The whole selection as JSON Lines."""
        headers = {"Content-Disposition": 'attachment; filename="chains.jsonl"'}
        return StreamingResponse(viewer.export(filters, corrections.read(run)), media_type="application/jsonl", headers=headers)

    @app.get("/data/problems/{name}")
    def problem(name: str) -> Json:
        """A problem with all that belongs to it."""
        found = viewer.problem(name)
        if found is None:
            raise ApiError(404, "there is no such problem in this run", "name")
        chains = {row["id"] for row in found["chains"]}
        return found | {"hand": {name: one.model_dump() for name, one in corrections.read(run).items() if name in chains}}

    @app.post("/data/corrections")
    def correct(correction: ByHand) -> Correction:
        """Keep what somebody says of a chain by hand: the fields that are named change. With neither a verdict nor a flag all is taken back."""
        if not viewer.has_chain(correction.chain_id, correction.problem_id):
            raise ApiError(404, "there is no such chain in this run", "chain_id")
        return corrections.amend(run, correction.chain_id, correction.problem_id, correction.model_dump(exclude_unset=True))

    @app.get("/data/pairs")
    def pairs(stage: str, after: Annotated[int, Query(ge=0, lt=2**62)] = 0) -> Json:
        """A page of a round's preference pairs."""
        return viewer.pairs(stage, after)

    @app.get("/data/plots")
    def plots(stage: str) -> Json:
        """Scores, lengths and margins of a stage, in bins; the course of every round of DPO."""
        return {**viewer.plots(stage), "rounds": dict(_rounds(run))}

    @app.get("/data/images/{digest}")
    def image(digest: str) -> Response:
        """A picture of one of the run's problems."""
        # Only what the index names is looked for on the disk.
        if not viewer.has_image(digest):
            raise ApiError(404, "there is no such picture in this run", "digest")
        try:
            data = images.get(digest)
        except UserError as error:
            raise ApiError(404, str(error), "digest") from None
        return Response(data, media_type=media_type(data), headers={"Cache-Control": "private, max-age=86400"})


class Renewal:
    """Makes a run's index anew when the run has changed, beside the requests."""

    def __init__(self, run: Path) -> None:
        self._run = run
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None

    def under_way(self) -> bool:
        """Begin it if there is need, wait for a moment, which is enough for a small run, and tell whether it goes on."""
        with self._lock:
            if self._thread is None or not self._thread.is_alive():
                if not stale(self._run):
                    return False
                self._thread = threading.Thread(target=self._renew, daemon=True)
                self._thread.start()
            thread = self._thread
        thread.join(_MOMENT)
        return thread.is_alive()

    def _renew(self) -> None:
        try:
            refreshed(self._run)
        except UserError as error:
            # A stage may be just on its way; what stood before is still shown.
            log.warning("%s: its index could not be made anew: %s", self._run, error)


def _place(after: str) -> list[int | None] | None:
    if not after:
        return None
    found = re.fullmatch(r"(\d{0,15}),(\d{1,15})", after)
    if not found:
        raise ApiError(400, "a page begins after two numbers with a comma between", "after")
    return [int(found[1]) if found[1] else None, int(found[2])]


def _rounds(run: Path) -> Iterator[tuple[str, list[Json]]]:
    """The logged steps of each round, those figures alone that are shown."""
    for folder in sorted((path for path in run.iterdir() if _ROUND.fullmatch(path.name)), key=lambda path: int(path.name[3:])):
        log = folder / "log.jsonl"
        if log.is_file():
            lines = log.read_bytes()
            # One that is just being written is whole the next time.
            steps = map(json.loads, lines[: lines.rfind(b"\n") + 1].splitlines())
            yield folder.name, [{name: step[name] for name in _LOGGED if name in step} for step in steps if "loss" in step]
