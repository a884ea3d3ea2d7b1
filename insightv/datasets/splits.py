"""The splits of a run from the user's files of problems: their images, and what a file that is not given is cut from."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from insightv.config import UserError
from insightv.datasets.sources import read_problems
from insightv.images import ImageError, decode, digest
from insightv.records import Problem
from insightv.store import ImageStore, content_hash


def read_splits(given: Mapping[str, Path], images: ImageStore) -> dict[str, list[Problem]]:
    """Every split's problems, read from the files given by name, with their images put into `images`.

    What is not given of `preference` and `own` is each a fifth of `train`, by the problems' ids; `plain` is `train` and `own`; others are empty.
    A file or an image that cannot be used is a `UserError` that names it and the problem.
    """
    if "train" not in given:
        raise UserError("problems.train is not set: name a JSON Lines file of problems (insightv import makes one), or configure a world")
    splits = {name: list(read_problems(path)) for name, path in given.items()}
    for name, path in given.items():
        _take_images(splits[name], path, images)
    whole = splits["train"]
    fifth = {problem.id: int(content_hash(problem.id)[:4], 16) % 5 for problem in whole}
    for place, name in enumerate(("preference", "own")):
        if name not in given:
            splits[name] = [problem for problem in whole if fifth[problem.id] == place]
            splits["train"] = [problem for problem in splits["train"] if fifth[problem.id] != place]
    return {"plain": splits["train"] + splits["own"], "development": [], "test": [], "heldout": []} | splits


def _take_images(problems: Sequence[Problem], path: Path, images: ImageStore) -> None:
    """Copy the images that lie beside a file of problems, each of them decoded first: a bad one would end the run only when a training looks at it."""
    store = ImageStore(path.parent / "images")
    owners = {name: problem.id for problem in reversed(problems) for name in problem.images}
    for name, owner in sorted(owners.items()):
        try:
            data = store.get(name)
            if digest(data) != name:
                raise ImageError("the file's name is not the digest of its bytes")
            decode(data)
        except UserError as error:
            raise UserError(f"{path}: problem {owner}: {error}") from None
        except ImageError as error:
            raise UserError(f"{path}: problem {owner}: {store.path(name)}: {error}; mend or remove the image, then `insightv import` its rows again") from None
        images.add(data)
