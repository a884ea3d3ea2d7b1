"""However a text is cut into pieces, no tag is left in it and nothing else is lost."""

import re

from hypothesis import given, settings
from hypothesis import strategies as st

from insightv.models.chat import Delta
from insightv.records import Usage
from insightv.serving.tags import Cleaner, TagFilter

TAG = re.compile(r"</?(?:thoughts|output|think)>")
PIECES = st.sampled_from(
    [
        "<thoughts>",
        "</thoughts>",
        "<output>",
        "</output>",
        "<think>",
        "<",
        ">",
        "</",
        "<tho",
        "ughts>",
        "<b>",
        "a",
        " ",
        "\n",
        "out",
        "put>",
        "\\<output>",
        "5 < 6",
    ]
)


@settings(max_examples=500, derandomize=True)
@given(st.lists(PIECES, max_size=12))
def test_no_tag_is_left_however_the_text_is_cut(pieces: list[str]) -> None:
    one, whole = TagFilter(), TagFilter()
    told = "".join(one.feed(piece) for piece in pieces) + one.end()
    assert not TAG.search(told)
    assert told == whole.feed("".join(pieces)) + whole.end()
    letters = "".join(TAG.sub("", "".join(pieces)).split())
    assert "".join(told.split()) == letters or TAG.search(letters)


@given(st.lists(st.text("<thoughts>/ a", min_size=1, max_size=4), max_size=8))
def test_what_was_held_of_the_chain_comes_before_the_answer(pieces: list[str]) -> None:
    cleaner = Cleaner()
    given = [*(Delta("reasoning", piece) for piece in pieces), Delta("content", "B"), Delta("usage", usage=Usage(), finish="stop")]
    found = [clean for delta in given for clean in cleaner.clean(delta)]
    kinds = [delta.kind for delta in found]
    assert kinds == sorted(kinds, key=["reasoning", "content", "usage"].index) and kinds[-2:] == ["content", "usage"]
    assert not TAG.search("".join(delta.text for delta in found if delta.kind == "reasoning"))
