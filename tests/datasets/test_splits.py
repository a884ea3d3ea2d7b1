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
    [problem] = read_splits({"train": path, "preference": path, "own": write("own")}, store)["train"]
    assert store.get(problem.images[0]) == png(1)


def numbered(*numbers: int) -> list[Problem]:
    return [make_problem(f"How many are {number}?", ["x"]) for number in numbers]


@pytest.mark.parametrize("trained", ["train", "preference", "own", "plain"])
@pytest.mark.parametrize("evaluated", ["test", "heldout", "development"])
def test_nothing_that_is_evaluated_is_trained_on(trained: str, evaluated: str, write: Callable[..., Path], store: ImageStore) -> None:
    one, two, three = numbered(1, 2, 3)
    files = {"train": write("train", *numbered(4, 5)), trained: write("mine", one, two)}
    # Another answer, source and id make no other question.
    files[evaluated] = write("theirs", three, make_problem(two.question, ["y"], source="elsewhere"))
    said = refused(files, store)
    assert said.startswith(f"problems.{trained} ({files[trained]}) and problems.{evaluated} ({files[evaluated]}) must share no problem, but 1 stand in both")
    assert two.id in said and two.question in said


def test_one_file_as_train_and_test_is_refused(write: Callable[..., Path], store: ImageStore) -> None:
    path = write("mine", *numbered(*range(20)))
    assert "20 stand in both" in refused({"train": path, "test": path}, store)


def test_own_chains_are_of_problems_that_are_new_to_the_reasoner(write: Callable[..., Path], store: ImageStore) -> None:
    train, own = write("train", *numbered(1, 2)), write("own", *numbered(2, 3))
    said = refused({"train": train, "own": own, "preference": train}, store)
    assert str(train) in said and str(own) in said


def test_dpo_may_take_its_problems_from_the_training_set(write: Callable[..., Path], store: ImageStore) -> None:
    train, own = write("train", *numbered(1, 2)), write("own", *numbered(3))
    splits = read_splits({"train": train, "own": own, "preference": train}, store)
    assert splits["preference"] == splits["train"] == numbered(1, 2)


def test_options_and_images_are_part_of_what_is_asked(write: Callable[..., Path], store: ImageStore) -> None:
    plain, choice = make_problem("q", ["x"]), make_problem("q", ["A"], options=["x", "y"], answer_type="choice")
    pictured = make_problem("q", ["x"], images=[digest(png(1))])
    paths = {name: write(name, problem) for name, problem in {"train": plain, "own": choice, "test": pictured}.items()}
    ImageStore(paths["test"].parent / "images").add(png(1))
    assert [problem.id for problem in read_splits(paths | {"preference": paths["train"]}, store)["test"]] == [pictured.id]


def test_an_id_names_one_problem(write: Callable[..., Path], store: ImageStore) -> None:
    one, two = (problem.model_copy(update={"id": "7"}) for problem in numbered(1, 2))
    train, test = write("train", one), write("test", two)
    said = refused({"train": train, "test": test}, store)
    assert said == f"problem 7 of problems.train ({train}) is another than that of problems.test ({test}); rename one"


def test_fifths_are_cut_between_images(write: Callable[..., Path], store: ImageStore) -> None:
    problems = [make_problem(f"{question}?", ["x"], images=[digest(png(colour))]) for question in range(4) for colour in range(60)]
    path = write("mine", *problems, *numbered(*range(60)))
    for colour in range(60):
        ImageStore(path.parent / "images").add(png(colour))
    splits = read_splits({"train": path}, store)
    parts = [splits[name] for name in ("train", "preference", "own")]
    assert sorted(problem.id for part in parts for problem in part) == sorted(problem.id for problem in read_problems(path))
    pictures = [{problem.images for problem in part if problem.images} for part in parts]
    assert sum(map(len, pictures)) == 60
    assert all(30 <= len(part) <= 90 for part in parts[1:])
    assert splits["plain"] == splits["train"] + splits["own"]


def test_too_few_images_for_a_fifth_are_said_before_anything_is_paid(write: Callable[..., Path], store: ImageStore) -> None:
    path = write("mine", *(make_problem(f"{question}?", ["x"], images=[digest(png(1))]) for question in range(50)))
    ImageStore(path.parent / "images").add(png(1))
    assert refused({"train": path}, store).endswith("too few images to cut a fifth off; name a file for problems.preference")


def test_plain_holds_a_question_once(write: Callable[..., Path], store: ImageStore, tmp_path: Path) -> None:
    twice = [*numbered(1, 2), make_problem("How many are 1?", ["y"])]
    train, own = write("train", *twice), write("own", *numbered(3))
    files = {"train": train, "own": own, "preference": train}
    assert read_splits(files, store)["plain"] == numbered(1, 2, 3)
    assert read_splits(files | {"plain": write("plain", *twice)}, store)["plain"] == numbered(1, 2)


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
