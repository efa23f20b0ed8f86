"""What supports a sentence and what does not."""

from collections.abc import Sequence

import pytest

from flotilla.answers.support import OverlapChecker
from flotilla.contracts.errors import RetryLater
from flotilla.contracts.session_events import Source
from flotilla.contracts.tasks import Passage


def passage(text: str) -> Passage:
    source = Source(document_id="d", title="Handbook", uri="u", passage_id="1", start=0, end=1, score=1.0)
    return Passage(text=text, source=source)


REFUNDS = passage("A refund above 5,000 euros is approved by the director. It is paid out within nine days.")
GERMAN = passage("Erstattungen werden innerhalb von neun Tagen ausgezahlt und von der Direktorin genehmigt.")


@pytest.mark.parametrize(
    ("sentence", "supported"),
    [
        ("The director approves refunds above 5000 euros.", True),
        ("Refunds are paid within nine days.", True),
        ("Refunds above 7,000 euros are approved by the director.", False),
        ("Parking is free for visitors on weekends.", False),
        ("The director owns a yacht in Monaco.", False),
        ("Paid within nine days.", True),
        ("Within 9 days.", False),
    ],
)
async def test_a_sentence_is_supported_by_words_and_numbers_of_its_passage(sentence: str, supported: bool) -> None:
    assert (await OverlapChecker().check_support(sentence, [REFUNDS])).supported is supported


async def test_words_are_compared_in_the_language_of_the_passage() -> None:
    verdict = await OverlapChecker().check_support("Die Direktorin genehmigt die Erstattung.", [GERMAN])
    assert (verdict.supported, verdict.support) == (True, 1.0)


async def test_a_sentence_without_a_source_is_not_supported() -> None:
    assert (await OverlapChecker().check_support("The director approves refunds.", [])).supported is False


async def test_a_sentence_in_another_language_than_its_source_cannot_be_checked_by_words() -> None:
    sentence = "Der Direktor genehmigt jede Rückzahlung, die höher als dieser Betrag ist."
    assert (await OverlapChecker().check_support(sentence, [REFUNDS])).supported is None
    assert not await OverlapChecker().is_unrelated(sentence, REFUNDS)


async def test_a_citation_is_dropped_only_where_its_passage_says_something_else_altogether() -> None:
    overlap = OverlapChecker()
    assert await overlap.is_unrelated("Parking is free for visitors on weekends.", REFUNDS)
    assert not await overlap.is_unrelated("The director owns a yacht in Monaco.", REFUNDS)
    assert not await overlap.is_unrelated("It is so.", REFUNDS)
    assert not await overlap.is_unrelated("A person spending 5000 asks somebody first.", REFUNDS)


class Meaning:
    """Texts about money point one way, all others the other way."""

    name = "meaning"

    async def embed(self, texts: Sequence[str]) -> list[list[float]]:
        return [[1.0, 0.0] if "refund" in text.lower() or "money back" in text else [0.0, 1.0] for text in texts]


class Away(Meaning):
    async def embed(self, texts: Sequence[str]) -> list[list[float]]:
        raise RetryLater("the model is away")


async def test_other_words_with_the_same_meaning_are_supported_where_there_is_a_model() -> None:
    sentence = "Customers get their money back with a signature of the boss."
    assert (await OverlapChecker().check_support(sentence, [REFUNDS])).supported is False
    assert (await OverlapChecker(Meaning()).check_support(sentence, [REFUNDS])).supported is True
    assert (await OverlapChecker(Away()).check_support(sentence, [REFUNDS])).supported is False
    assert (
        await OverlapChecker(Meaning()).check_support("Their money back, 70 euros, with a signature.", [REFUNDS])
    ).supported is False
    assert not await OverlapChecker(Meaning()).is_unrelated(sentence, REFUNDS)


class Counting(Meaning):
    """Remembers what it was asked."""

    def __init__(self) -> None:
        self.seen: list[str] = []

    async def embed(self, texts: Sequence[str]) -> list[list[float]]:
        self.seen += texts
        return await super().embed(texts)


async def test_sentences_of_one_answer_embed_their_passage_once() -> None:
    model = Counting()
    overlap = OverlapChecker(model)
    sentences = [f"Customers get their money back on {day}." for day in ("Monday", "Friday", "holidays")]
    assert [(await overlap.check_support(one, [REFUNDS])).supported for one in sentences] == [True, True, True]
    assert sorted(model.seen) == sorted([*sentences, *dict.fromkeys([REFUNDS.text, *REFUNDS.text.split("\n\n")])])


async def test_the_vectors_of_many_passages_are_dropped_in_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flotilla.answers.support.MAX_KEPT", 2)
    model = Counting()
    overlap = OverlapChecker(model)
    others = [passage(f"A refund is paid on day {number}.") for number in range(4)]
    for one in (*others, others[0]):
        await overlap.check_support("Customers get their money back.", [one])
    assert model.seen.count(others[0].text) == 2
    await overlap.check_support("Customers get their money back.", [others[0]])
    assert model.seen.count(others[0].text) == 2
