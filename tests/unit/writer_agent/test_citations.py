import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.work import assert_linear
from writer_agent.citations import CitationRenumberer

PIECES = st.lists(st.text("ab [1]2,3;`.\n 9", max_size=6), max_size=20)


def through(stream: CitationRenumberer, *pieces: str) -> str:
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
    stream = CitationRenumberer(3)
    assert through(stream, answer) == shown
    assert stream.cited == cited


@given(PIECES)
def test_how_the_answer_is_cut_does_not_matter(pieces: list[str]) -> None:
    whole, cut = CitationRenumberer(3), CitationRenumberer(3)
    assert through(cut, *pieces) == through(whole, "".join(pieces))
    assert cut.cited == whole.cited


@given(PIECES)
def test_every_number_outside_of_code_names_a_source(pieces: list[str]) -> None:
    stream = CitationRenumberer(3)
    shown = through(stream, *(piece.replace("`", "") for piece in pieces))
    again = CitationRenumberer(len(stream.cited))
    assert through(again, shown) == shown


def test_text_is_not_held_back_longer_than_needed() -> None:
    stream = CitationRenumberer(1)
    assert stream.feed("So [") == "So"
    assert stream.feed("x] it") == " [x] it"
    assert stream.feed("[" + "1, " * 20) != ""


@pytest.mark.parametrize(
    "unit", [" ", "[", "[ ", "[1", "[99]", "[[99]1]", " [1, ", "1", "`", "a", "\u0661", "[1" + " " * 50]
)
def test_an_answer_takes_time_in_proportion_to_its_length_in_one_piece_or_many(unit: str) -> None:
    def whole(text: str) -> str:
        stream = CitationRenumberer(3)
        return stream.feed(text) + stream.end()

    def in_pieces(text: str) -> str:
        stream = CitationRenumberer(3)
        return "".join(stream.feed(text[at : at + 7]) for at in range(0, len(text), 7)) + stream.end()

    assert_linear(whole, lambda n: "[" + unit * (n // len(unit)))
    assert_linear(in_pieces, lambda n: "[" + unit * (n // len(unit)))


def test_a_number_of_thousands_of_digits_cites_nothing() -> None:
    stream = CitationRenumberer(3)
    assert stream.feed(f"See [{'1' * 5000}].") + stream.end() == f"See [{'1' * 5000}]."
    assert stream.feed(f"See [{'1' * 30}].") + stream.end() == "See."
    assert stream.cited == []
