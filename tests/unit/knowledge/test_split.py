from hypothesis import given
from hypothesis import strategies as st

from flotilla.knowledge.documents import TextBlock
from flotilla.knowledge.split import HEADING_SEPARATOR, MAX_CHARACTERS, TARGET_CHARACTERS, split_into_passages

WORDS = st.text("ab .\n", min_size=1, max_size=3 * MAX_CHARACTERS).map(str.strip).filter(bool)
BLOCKS = st.lists(st.builds(TextBlock, WORDS, st.integers(0, 3), st.booleans()), min_size=1, max_size=12)


@given(BLOCKS)
def test_passages_are_places_in_the_text_in_order_and_lose_no_character(blocks: list[TextBlock]) -> None:
    document = split_into_passages(blocks)
    at = 0
    for piece in document.pieces:
        assert piece.text == document.text[piece.start : piece.end]
        assert 0 < len(piece.text) <= max(MAX_CHARACTERS, TARGET_CHARACTERS + 2)
        assert document.text[at : piece.start].strip() == ""
        at = piece.end
    assert document.text[at:].strip() == ""


def test_a_passage_never_crosses_a_heading() -> None:
    document = split_into_passages(
        [
            TextBlock("A", 1),
            TextBlock("text of a"),
            TextBlock("B", 2),
            TextBlock("text of b"),
            TextBlock("C", 1),
            TextBlock("c"),
        ]
    )
    assert [piece.text for piece in document.pieces] == ["A\n\ntext of a", "B\n\ntext of b", "C\n\nc"]
    assert [piece.heading for piece in document.pieces] == ["A", f"A{HEADING_SEPARATOR}B", "C"]


def test_a_term_stays_with_its_definition() -> None:
    long = "word " * (TARGET_CHARACTERS // 6)
    document = split_into_passages(
        [
            TextBlock(long),
            TextBlock("f()", leads=True),
            TextBlock(long),
            TextBlock("g()", leads=True),
            TextBlock("end " * 80),
        ]
    )
    assert [piece.leads for piece in document.pieces] == [(), ("f()",), ("g()",)]
    assert document.pieces[1].text.startswith("f()\n\nword")


def test_a_long_block_is_cut_at_the_end_of_a_sentence() -> None:
    sentence = "This sentence has some words in it. "
    document = split_into_passages([TextBlock((sentence * 100).strip())])
    assert len(document.pieces) > 1
    assert all(piece.text.endswith("it.") and piece.text.startswith("This") for piece in document.pieces)


def test_anchors_go_with_the_passage_that_they_begin_in() -> None:
    document = split_into_passages(
        [TextBlock("A", 1, anchors=("a",)), TextBlock("x"), TextBlock("B", 1, anchors=("b", "b2")), TextBlock("y")]
    )
    assert [piece.anchors for piece in document.pieces] == [("a",), ("b", "b2")]
