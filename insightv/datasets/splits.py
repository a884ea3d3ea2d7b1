"""The splits of a run from the user's files of problems: kept apart, cut where a file is not given, and their images taken along."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from insightv.config import UserError
from insightv.datasets.sources import read_problems
from insightv.images import ImageError, decode, digest
from insightv.records import Problem
from insightv.store import ImageStore, content_hash

TRAINED = ("train", "preference", "own", "plain")
_EVALUATED = ("test", "heldout", "development")

_APART = (*((trained, evaluated) for trained in TRAINED for evaluated in _EVALUATED), ("own", "train"))
"""Splits that share no problem: nothing evaluated is trained on, and the reasoner's own chains are of problems that are new to it.

`preference` may share some with `train`: the paper takes its problems for DPO from there."""

Asked = tuple[str, tuple[str, ...], tuple[str, ...]]


def read_splits(given: Mapping[str, Path], images: ImageStore) -> dict[str, list[Problem]]:
    """Every split's problems, read from the files given by name, with their images put into `images`.

    What is not given of `preference` and `own` is each about a fifth of `train`, all questions about the same images in one of the three;
    `plain` is `train` and `own`, and holds no question twice; others are empty. Files that share problems which must be kept apart, and a file,
    a problem or an image that cannot be used, are a `UserError` that names files and problem.
    """
    if "train" not in given:
        raise UserError("problems.train is not set: name a JSON Lines file of problems (insightv import makes one), or configure a world")
    splits = {name: list(read_problems(path)) for name, path in given.items()}
    _check_ids(splits, given)
    for first, second in _APART:
        if first in given and second in given:
            _check_apart(splits, given, first, second)
    for name, path in given.items():
        _take_images(splits[name], path, images)
    whole = splits["train"]
    for place, name in enumerate(("preference", "own")):
        if name not in given:
            splits[name] = [problem for problem in whole if _fifth(problem) == place]
            splits["train"] = [problem for problem in splits["train"] if _fifth(problem) != place]
            if not splits[name] or not splits["train"]:
                raise UserError(f"problems.{name} is not set, and {given['train']} has too few images to cut a fifth off; name a file for problems.{name}")
    plain = splits.get("plain", splits["train"] + splits["own"])
    return {"development": [], "test": [], "heldout": []} | splits | {"plain": _once(plain)}


def _asked(problem: Problem) -> Asked:
    """What two problems have in common that ask the same, whatever their ids and answers."""
    return problem.question, problem.images, problem.options


def _once(problems: Iterable[Problem]) -> list[Problem]:
    first: dict[Asked, Problem] = {}
    for problem in problems:
        first.setdefault(_asked(problem), problem)
    return list(first.values())


def _fifth(problem: Problem) -> int:
    # By the question where there is no image: the same one may stand there under two ids.
    return int(content_hash(sorted(problem.images) or problem.question)[:4], 16) % 5


def _check_ids(splits: Mapping[str, Sequence[Problem]], given: Mapping[str, Path]) -> None:
    """An id names one problem throughout a run."""
    known: dict[str, tuple[str, Problem]] = {}
    for name, problems in splits.items():
        for problem in problems:
            other, earlier = known.setdefault(problem.id, (name, problem))
            if _asked(earlier) != _asked(problem):
                raise UserError(
                    f"problem {problem.id} of problems.{other} ({given[other]}) is another than that of problems.{name} ({given[name]}); rename one"
                )


def _check_apart(splits: Mapping[str, Sequence[Problem]], given: Mapping[str, Path], first: str, second: str) -> None:
    there = {_asked(problem) for problem in splits[second]}
    if shared := [problem for problem in splits[first] if _asked(problem) in there]:
        example = f"{shared[0].id} ({' '.join(shared[0].question.split())[:60]!r})"
        files = f"problems.{first} ({given[first]}) and problems.{second} ({given[second]})"
        raise UserError(f"{files} must share no problem, but {len(shared)} stand in both, such as {example}; take them out of one of the files")


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
