"""What an OpenAI client is sent: never more than the answer, always the same pieces."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flotilla.contracts.session_events import Source
from gateway.openai.answer_text import DeltaSplitter, StreamedAnswer
from gateway.openai.citations import citation_annotations
from gateway.openai.errors import AnswerRestarted
from gateway.openai.messages import InputMessage
from gateway.openai.requests import earlier_turns

ANSWERS = st.text(st.sampled_from("ab \n\tü漢[1]"), max_size=80)


def parts(text: str, cuts: list[int]) -> list[str]:
    places = sorted({0, len(text), *(cut % (len(text) + 1) for cut in cuts)})
    return [text[start:end] for start, end in pairwise(places)]


@given(ANSWERS, st.lists(st.integers(0, 200)), st.lists(st.integers(0, 200), max_size=4))
def test_text_adds_up_to_the_answer_however_it_arrives_and_is_restarted(
    written: str, cuts: list[int], restarts: list[int]
) -> None:
    answer = written.strip()
    text, sent = StreamedAnswer(), ""
    for restart in restarts:
        for part in parts(written[: restart % (len(written) + 1)], cuts):
            sent += text.feed(part)
            assert answer.startswith(sent)
        text.begin_next_attempt()
    for part in parts(written, cuts):
        sent += text.feed(part)
        assert answer.startswith(sent)
    assert sent + text.unsent_answer_text(answer) == answer


@given(ANSWERS, ANSWERS)
def test_another_answer_is_noticed_unless_it_begins_with_what_was_sent(sent: str, stored: str) -> None:
    text = StreamedAnswer()
    shown = text.feed(sent)
    if stored.strip().startswith(shown):
        assert shown + text.unsent_answer_text(stored.strip()) == stored.strip()
    else:
        with pytest.raises(AnswerRestarted):
            text.unsent_answer_text(stored.strip())


@given(ANSWERS, st.lists(st.integers(0, 200)))
def test_pieces_depend_on_the_text_alone(text: str, cuts: list[int]) -> None:
    def cut(arriving: list[str]) -> list[str]:
        pieces = DeltaSplitter()
        return [piece for part in arriving for piece in pieces.feed(part)] + pieces.end()

    assert cut(parts(text, cuts)) == cut([text])
    assert "".join(cut([text])) == text


def test_first_piece_waits_for_nothing_and_long_words_do_not_wait_for_their_end() -> None:
    pieces = DeltaSplitter()
    assert pieces.feed("T") == ["T"]
    assert pieces.feed("he") == []
    assert pieces.feed(" ") == ["he"]
    assert len(DeltaSplitter().feed("漢" * 1000)) > 60


def source(uri: str) -> Source:
    return Source(document_id="d", title="Gates", uri=uri, passage_id="p", start=0, end=1, score=1.0)


def test_citations_become_annotations_where_the_text_has_them() -> None:
    sources = [source("https://docs.example/gates"), source("gates.md")]
    notes = citation_annotations("Olga [1]. Max [2, 1] and [9].", sources)
    assert [note["type"] for note in notes] == ["url_citation", "file_citation", "url_citation"]
    assert (notes[0]["start_index"], notes[0]["end_index"]) == (5, 8)
    assert notes[1] == {"type": "file_citation", "file_id": "d", "filename": "Gates", "index": 14}


def test_turns_pair_questions_with_answers() -> None:
    messages = [
        InputMessage(role=role, content=text)  # type: ignore[arg-type]
        for role, text in (
            ("system", "be nice"), ("user", "a"), ("user", "b"), ("assistant", "c"), ("user", "d"),
        )
    ]  # fmt: skip
    assert [(turn.query, turn.answer) for turn in earlier_turns(messages)] == [("a\nb", "c")]
