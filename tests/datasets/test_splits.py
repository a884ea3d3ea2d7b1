"""The user's files as the splits of a run: what would end a run later ends it here, in one line that names file and problem."""

from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import pytest
from PIL import Image

from insightv.config import UserError
from insightv.datasets.foreign import make_problem
from insightv.datasets.sources import read_problems, write_problems
from insightv.datasets.splits import read_splits
from insightv.images import digest, encode_png
from insightv.prompts import ask
from insightv.records import Problem
from insightv.store import ImageStore


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    """Write problems as a file of their own in a folder."""

    def go(name: str, *problems: Problem) -> Path:
        write_problems(tmp_path / name / "problems.jsonl", problems)
        return tmp_path / name / "problems.jsonl"

    return go


def png(colour: int) -> bytes:
    return encode_png(Image.new("RGB", (8, 8), (colour, 0, 0)))


def gif() -> bytes:
    stream = BytesIO()
    Image.new("RGB", (8, 8)).save(stream, "GIF")
    return stream.getvalue()


def refused(given: dict[str, Path], images: ImageStore) -> str:
    with pytest.raises(UserError) as caught:
        read_splits(given, images)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_images_are_taken_into_the_run(write: Callable[..., Path], store: ImageStore) -> None:
    path = write("mine", make_problem("q", ["x"], images=[digest(png(1))]))
    ImageStore(path.parent / "images").add(png(1))
    [problem] = read_splits({"train": path, "preference": path, "own": path}, store)["train"]
    assert store.get(problem.images[0]) == png(1)


@pytest.mark.parametrize(
    ("data", "complaint"),
    [
        (gif(), "not a PNG, JPEG or WEBP image"),
        (b"", "the image is empty"),
        (png(1)[:45], "the image is damaged and cannot be decoded"),
        (None, "is not in"),
        (png(2), "the file's name is not the digest of its bytes"),
    ],
    ids=["gif", "empty", "damaged", "missing", "another"],
)
def test_an_unreadable_image_is_one_line_with_file_and_problem(data: bytes | None, complaint: str, write: Callable[..., Path], store: ImageStore) -> None:
    name = digest(b"another" if data == png(2) else data or b"")
    problem = make_problem("q", ["x"], images=[name])
    path = write("mine", problem)
    if data is not None:
        image = path.parent / "images" / name[:2] / f"{name}.png"
        image.parent.mkdir(parents=True)
        image.write_bytes(data)
    said = refused({"train": path}, store)
    assert said.startswith(f"{path}: problem {problem.id}: ") and complaint in said


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"answers": ()}, "answers: at least one is needed, and none may be blank"),
        ({"answers": (" ",)}, "answers: at least one is needed, and none may be blank"),
        ({"answers": ("x", "")}, "answers: at least one is needed, and none may be blank"),
        ({"options": tuple(f"o{place}" for place in range(27))}, "options: 27 of them, 26 at most have a letter"),
    ],
)
def test_a_problem_that_no_stage_could_use_is_one_line_with_file_and_problem(change: dict[str, object], complaint: str, write: Callable[..., Path]) -> None:
    problem = make_problem("q", ["x"]).model_copy(update=change)
    path = write("mine", make_problem("fine", ["x"]), problem)
    with pytest.raises(UserError) as caught:
        list(read_problems(path))
    assert str(caught.value) == f"{path}: problem {problem.id}: {complaint}"


def test_a_question_with_more_options_than_letters_is_one_line_when_it_is_asked() -> None:
    # `insightv ask` takes its problem from no file.
    with pytest.raises(UserError, match=r"^option 27: a multiple-choice question has 26 options at most$"):
        ask(Problem(id="asked", question="q", options=tuple(map(str, range(27))), answers=("?",)))
