"""What a training problem shares with a benchmark's item: its picture in other bytes, its words, or a short question beside a picture like its own."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw

from insightv.config import DecontaminateConfig, UserError
from insightv.datasets.contamination import Item, Overlap, Shown, bare, checked
from insightv.datasets.foreign import make_problem
from insightv.datasets.pictures import Picture, prepare
from insightv.images import encode_png
from insightv.store import ImageStore

LONG = "A train leaves the station at noon and meets another one after forty minutes; how far apart were both when they set out?"
SHORT = "How far apart are the two stations?"


def photo(seed: int) -> Image.Image:
    """Smooth light and some shapes: what the looks of a photo depend on."""
    rng = np.random.default_rng(seed)
    light = Image.fromarray(rng.integers(40, 215, (4, 5, 3), dtype=np.uint8)).resize((192, 144), Image.Resampling.BICUBIC)
    draw = ImageDraw.Draw(light)
    for _ in range(4):
        x, y = rng.integers(0, 120), rng.integers(0, 80)
        draw.ellipse((x, y, x + rng.integers(30, 70), y + rng.integers(30, 60)), fill=tuple(int(part) for part in rng.integers(0, 255, 3)))
    return light


def smaller(image: Image.Image) -> bytes:
    stream = io.BytesIO()
    image.resize((96, 72), Image.Resampling.BICUBIC).save(stream, "JPEG", quality=60)
    return stream.getvalue()


def painted_over(image: Image.Image) -> Image.Image:
    """With two labels on it, as the masked pictures of AI2D have them."""
    image = image.copy()
    for box in ((20, 30, 45, 42), (120, 90, 150, 102)):
        ImageDraw.Draw(image).rectangle(box, fill="white", outline="black")
    return image


def seen(image: Image.Image | bytes) -> Picture:
    return bare(prepare(image if isinstance(image, bytes) else encode_png(image)))


def item(number: int, question: str, *images: Image.Image, benchmark: str = "mmstar") -> Item:
    return Item(benchmark, str(number), question, tuple(map(seen, images)))


def shown(*items: Item, **settings: int) -> Shown:
    return Shown(items, DecontaminateConfig(**settings))


def test_a_picture_is_known_in_other_bytes_whatever_is_asked() -> None:
    known = shown(item(1, "Who is it?", photo(1)), item(2, "Where is it?", photo(2), photo(3)))
    assert known.find("Why?", [seen(photo(1))]) == [Overlap("mmstar", "1", "picture", 0, "")]
    [found] = known.find("Why?", [seen(photo(4)), seen(smaller(photo(3)))])
    assert (found.index, found.by) == ("2", "picture") and found.distance is not None and found.distance <= 5
    assert known.find("Who is it?", [seen(photo(5))]) == []


def test_thirteen_words_in_a_row_are_enough_and_twelve_are_not() -> None:
    known = shown(item(1, LONG, photo(1)))
    words = LONG.lower().replace(";", "").replace("?", "").split()
    for count, by in ((13, ["question"]), (12, [])):
        asked = f"Tell me:  {' -- '.join(words[4 : 4 + count]).upper()}! Or is there not enough in it to know that?"
        assert [found.by for found in known.find(asked, [seen(photo(2))])] == by
    [found] = known.find(LONG, [])
    assert found == Overlap("mmstar", "1", "question", None, " ".join(words[:13]))


def test_a_short_question_counts_only_beside_a_picture_that_looks_alike() -> None:
    known = shown(item(1, SHORT, photo(1)))
    other = seen(painted_over(photo(1)))
    assert known.find(SHORT, [seen(photo(2))]) == [] and known.find(SHORT, []) == [] and known.find("How far is it?", [other]) == []
    [found] = known.find("<image 1>\nhow far apart are the two stations", [other])
    assert (found.by, found.words) == ("both", "how far apart are the two stations") and found.distance is not None and found.distance <= 10


def test_what_a_benchmark_asks_of_many_pictures_is_its_template() -> None:
    three, four = ([item(number, LONG, photo(number)) for number in range(count)] for count in (3, 4))
    assert shown(*three).find(LONG, [])[0].index == "0"
    assert shown(*four).find(LONG, []) == [] and shown(*four, pictures=4).find(LONG, []) != []
    # Rotations of a question are about one picture, and another benchmark that has the item too is no other question.
    assert shown(*(item(number, LONG, photo(1)) for number in range(9))).find(LONG, []) != []
    both = shown(*three, *(item(number, LONG, photo(number + 3), benchmark="mmmu") for number in range(3)))
    assert [(found.benchmark, found.index) for found in both.find(LONG, [])] == [("mmmu", "0"), ("mmstar", "0")]
    assert shown(*(item(number, SHORT, photo(number)) for number in range(4))).find(SHORT, [seen(painted_over(photo(1)))]) == []


def test_options_behind_a_question_are_no_words_of_it() -> None:
    options = "\nOptions: A: red, B: green, C: blue, D: white, E: black, F: yellow, G: brown"
    assert shown(item(1, f"Which?{options}", photo(1))).find(f"And what?{options}", []) == []


def test_signs_of_scripts_without_spaces_are_words() -> None:
    known = shown(item(1, "如图, 在三角形中, 求角的大小是多少度?", photo(1)))
    assert [found.by for found in known.find("已知: 在三角形中, 求角的大小是多少度.", [])] == ["question"]
    assert known.find("在三角形中, 求边的长.", []) == []


def test_the_nearest_item_of_each_benchmark_is_named() -> None:
    items = [item(1, LONG, photo(2)), item(2, SHORT, photo(1)), item(3, "", photo(1)), item(1, LONG, photo(3), benchmark="mmmu")]
    found = shown(*items).find(LONG, [seen(photo(1))])
    assert [(one.benchmark, one.index, one.by) for one in found] == [("mmmu", "1", "question"), ("mmstar", "2", "picture")]


def test_problems_come_in_order_and_an_image_that_is_missing_is_named(store: ImageStore) -> None:
    images = [store.add(encode_png(photo(number))) for number in range(3)]
    problems = [make_problem(f"What is number {number}?", ["x"], images=[images[number % 3]]) for number in range(600)]
    done = list(checked(iter(problems), store, shown(item(7, "", photo(1)))))
    assert [problem for problem, _ in done] == problems and [bool(found) for _, found in done] == [number % 3 == 1 for number in range(600)]
    with pytest.raises(UserError, match=r"image '0{32}' is not in"):
        list(checked([make_problem("q", ["x"], images=["0" * 32])], store, shown()))


def test_an_image_that_is_damaged_names_its_problem(store: ImageStore) -> None:
    name = store.add(encode_png(photo(1))[:200])
    problem = make_problem("q", ["x"], images=[name])
    with pytest.raises(UserError, match=rf"^problem {problem.id}: bad image: .*damaged"):
        list(checked([problem], store, shown(item(1, "", photo(1)))))


def test_memory_is_that_of_the_items(store: ImageStore, tmp_path: Path) -> None:
    import tracemalloc

    image = store.add(encode_png(photo(1)))
    known = shown(item(1, "", photo(2)))

    def peak(count: int) -> int:
        tracemalloc.start()
        found = checked((make_problem(f"What is number {number}?", ["x"], images=[image]) for number in range(count)), store, known)
        assert sum(1 for _ in found) == count
        size = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return size

    peak(600)
    assert peak(6000) < 1.3 * peak(1200)
