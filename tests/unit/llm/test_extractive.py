import asyncio

import pytest

from flotilla.contracts.session_events import Source
from flotilla.contracts.tasks import Passage
from flotilla.llm import ChatMessage, CompletionRequest, ExtractiveModel, Grounding, best_sentence
from flotilla.llm.extractive import MAX_SENTENCE_CHARACTERS, NOTHING_FOUND, compose_answer


def passage(text: str) -> Passage:
    source = Source(document_id="d", title="T", uri="u", passage_id="1", start=0, end=len(text), score=1.0)
    return Passage(text=text, source=source)


CATS = passage("Cats sleep all day on the sofa. They eat fish and mice in the evening. Cats do not swim.")
DOGS = passage("Dogs eat bones from the butcher. Dogs sleep in the kennel.")


def test_the_sentence_that_answers_is_quoted_with_its_passage() -> None:
    assert compose_answer("What do cats do on a sofa?", [DOGS, CATS]).startswith("Cats sleep all day on the sofa. [2]")


def test_the_same_question_gets_the_same_answer() -> None:
    assert len({compose_answer("Who eats fish or bones?", [CATS, DOGS]) for _ in range(5)}) == 1


@pytest.mark.parametrize("passages", [[], [passage("Nothing of the kind is written in here.")]])
def test_a_question_that_no_sentence_answers_is_reported_as_such(passages: list[Passage]) -> None:
    assert compose_answer("What is the quasar's redshift?", passages) == NOTHING_FOUND


def test_what_was_quoted_is_not_quoted_again() -> None:
    assert compose_answer("Where do cats sleep?", [CATS, CATS]).count("Cats sleep all day") == 1


def test_a_heading_is_not_quoted_but_tells_what_the_sentences_below_it_are_about() -> None:
    section = passage("What has to be written down\n\nEvery refund has a case number. It is kept for ten years.")
    assert (
        compose_answer("What has to be written down for a refund?", [section, CATS])
        == "Every refund has a case number. [1]"
    )
    assert compose_answer("What is written down?", [CATS, section]).startswith("Every refund has a case number. [2]")


def test_a_sentence_goes_on_over_a_wrapped_line_and_ends_with_a_row() -> None:
    wrapped = passage(
        "Recordings of all calls are kept in the archive for 90 days and\nonly if the caller agreed to it."
    )
    assert compose_answer("calls", [wrapped]).endswith("for 90 days and only if the caller agreed to it. [1]")
    rows = passage("what is above 500 and up to 5,000 euros | the head\nwhat is above 5,000 euros | the director")
    assert "| the head [1]" in compose_answer("Who approves above 5,000 euros?", [rows])


def test_numbers_in_brackets_are_not_quoted_since_they_would_read_as_citations() -> None:
    listing = passage("The first argument is sys.argv[1] in every script. The argument list begins with the name.")
    assert compose_answer("What is the first argument?", [listing]) == "The argument list begins with the name. [1]"


def test_an_endless_sentence_is_cut_at_a_word() -> None:
    quoted = compose_answer("cats", [passage("cats and " * 200)])
    assert len(quoted) < MAX_SENTENCE_CHARACTERS + 20
    assert quoted.endswith("… [1]")


def test_tokens_are_the_answer_word_by_word() -> None:
    request = CompletionRequest(
        messages=(ChatMessage(role="user", content="ignored"),), grounding=Grounding(query="fish", passages=(CATS,))
    )
    pieces: list[str] = []

    async def on_token(piece: str) -> None:
        pieces.append(piece)

    completion = asyncio.run(ExtractiveModel().complete(request, on_token))
    assert "".join(pieces) == completion.text
    assert completion.usage.output_tokens == len(pieces) > 5
    assert (completion.model, completion.logprobs) == ("flotilla-extractive-1", ())


def test_the_best_quote_is_the_sentence_that_has_most_in_common() -> None:
    assert best_sentence(CATS.text, "They like mice and fish.") == "They eat fish and mice in the evening."
    assert best_sentence("Short.", "anything") == "Short."
