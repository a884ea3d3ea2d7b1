"""The viewer's routes: a run's chains, problems, pairs and pictures, as the index over its files has them."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

from fastapi import FastAPI, Query
from fastapi.responses import Response, StreamingResponse

from insightv import corrections
from insightv.images import media_type
from insightv.records import Correction
from insightv.serving.replies import ApiError
from insightv.store import ImageStore
from insightv.viewing.find import Filters, Viewer

Json = dict[str, Any]
_ROUND = re.compile(r"dpo[1-9]\d{0,3}")
_LONGEST_NOTE = 2000
_LOGGED = ("step", "loss", "margin", "accuracy", "kl", "reward_chosen", "reward_rejected")


class Page(Filters):
    """A selection, and where its page begins."""

    after: str = ""
    """The last page's `next`: its two numbers with a comma between; the first may be empty."""


def add_data(app: FastAPI, run: Path, index: Path) -> None:
    """Add the routes of one run below /data, whose page is static.py's."""
    viewer, images = Viewer(index), ImageStore(run / "images")

    @app.get("/data/facets")
    def facets() -> Json:
        """What there is to choose from, and the run's name."""
        return {"run": run.resolve().name, **viewer.facets()}

    @app.get("/data/chains")
    def chains(page: Annotated[Page, Query()]) -> Json:
        """A page of chains."""
        return viewer.chains(page, _place(page.after))

    @app.get("/data/export")
    def export(filters: Annotated[Filters, Query()]) -> StreamingResponse:
        """The whole selection as JSON Lines."""
        headers = {"Content-Disposition": 'attachment; filename="chains.jsonl"'}
        return StreamingResponse(viewer.export(filters), media_type="application/jsonl", headers=headers)

    @app.get("/data/problems/{name}")
    def problem(name: str) -> Json:
        """A problem with all that belongs to it."""
        found = viewer.problem(name)
        if found is None:
            raise ApiError(404, "there is no such problem in this run", "name")
        chains = {row["id"] for row in found["chains"]}
        return found | {"hand": {name: one.model_dump() for name, one in corrections.read(run).items() if name in chains}}

    @app.post("/data/corrections")
    def correct(correction: Correction) -> Correction:
        """Keep what somebody says of a chain by hand: the fields that are named change. With neither a verdict nor a flag all is taken back."""
        if not viewer.has_chain(correction.chain_id, correction.problem_id):
            raise ApiError(404, "there is no such chain in this run", "chain_id")
        if len(correction.note) > _LONGEST_NOTE:
            raise ApiError(400, f"a note has at most {_LONGEST_NOTE} characters", "note")
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
        data = images.get(digest)
        return Response(data, media_type=media_type(data), headers={"Cache-Control": "private, max-age=86400"})


def _place(after: str) -> list[int | None] | None:
    if not after:
        return None
    found = re.fullmatch(r"(\d{0,15}),(\d{1,15})", after)
    if not found:
        raise ApiError(400, "a page begins after two numbers with a comma between", "after")
    return [int(found[1]) if found[1] else None, int(found[2])]


def _rounds(run: Path) -> Iterator[tuple[str, list[Json]]]:
    """The logged steps of each round, those figures alone that are shown."""
    for folder in sorted(path for path in run.iterdir() if _ROUND.fullmatch(path.name)):
        log = folder / "log.jsonl"
        if log.is_file():
            steps = map(json.loads, log.read_text(encoding="utf-8").splitlines())
            yield folder.name, [{name: step[name] for name in _LOGGED if name in step} for step in steps if "loss" in step]
