import pytest
from hypothesis import given
from hypothesis import strategies as st

from writer_agent.citations import CitationStream

PIECES = st.lists(st.text("ab [1]2,3;`.\n 9", max_size=6), max_size=20)


def through(stream: CitationStream, *pieces: str) -> str:
    given_back = "".join(stream.feed(piece) for piece in pieces) + stream.end()
    assert given_back == stream.text
    return given_back


@pytest.mark.parametrize(
    ("answer", "shown", "cited"),
    [
        ("Yes [3]. No [1].", "Yes [1]. No [2].", [3, 1]),
        ("Both [2, 3] and [3][2].", "Both [1, 2] and [2][1].", [2, 3]),
        ("Odd [ 2 ;2 ].", "Odd [1].", [2]),
        ("Nobody said that [9].", "Nobody said that.", []),
        ("Half of it [9, 2].", "Half of it [1].", [2]),
        ("Zero [0] too.", "Zero too.", []),
        ("Within [[9]1] or [1 [9]].", "Within [[]1] or [1[]].", []),
        ("`argv[1]` stays [1].", "`argv[1]` stays [1].", [1]),
        ("```\nx = a[3]\n``` then [2]", "```\nx = a[3]\n``` then [1]", [2]),
        ("A [link] and [1", "A [link] and [1", []),
        ("End [", "End [", []),
        ("Blank ", "Blank ", []),
    ],
)
def test_citations_are_numbered_as_the_sources_are(answer: str, shown: str, cited: list[int]) -> None:
    stream = CitationStream(3)
    assert through(stream, answer) == shown
    assert stream.cited == cited


@given(PIECES)
def test_how_the_answer_is_cut_does_not_matter(pieces: list[str]) -> None:
    whole, cut = CitationStream(3), CitationStream(3)
    assert through(cut, *pieces) == through(whole, "".join(pieces))
    assert cut.cited == whole.cited


@given(PIECES)
def test_every_number_outside_of_code_names_a_source(pieces: list[str]) -> None:
    stream = CitationStream(3)
    shown = through(stream, *(piece.replace("`", "") for piece in pieces))
    again = CitationStream(len(stream.cited))
    assert through(again, shown) == shown


def test_text_is_not_held_back_longer_than_needed() -> None:
    stream = CitationStream(1)
    assert stream.feed("So [") == "So"
    assert stream.feed("x] it") == " [x] it"
    assert stream.feed("[" + "1, " * 20) != ""
