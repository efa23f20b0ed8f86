"""Rankings by words and by meaning become one, in which passages of a document speak for each other."""

from typing import Any

from flotilla.knowledge.fusion import Row, fuse_rankings


def row(number: int, document: str, **scores: float) -> Row:
    made: dict[str, Any] = {"passage_no": number, "document_id": document, "score": max(scores.values())}
    return made | scores


def by_words(*documents: str) -> list[Row]:
    return [row(number, one, by_words=1 / (number + 1)) for number, one in enumerate(documents)]


def numbers(rows: list[Row]) -> list[int]:
    return [one["passage_no"] for one in rows]


def test_what_both_rankings_have_comes_before_what_leads_one() -> None:
    words = [row(1, "a", by_words=0.9), row(2, "b", by_words=0.8)]
    meaning = [row(3, "c", by_meaning=0.7), row(2, "b", by_meaning=0.6)]
    fused = fuse_rankings(words, meaning)
    assert numbers(fused) == [2, 1, 3]
    assert (fused[0]["by_words"], fused[0]["by_meaning"], fused[0]["score"]) == (0.8, 0.6, 0.8)


def test_one_ranking_of_different_documents_stays_as_it_is() -> None:
    assert numbers(fuse_rankings(by_words("a", "b", "c", "d"))) == [0, 1, 2, 3]
    assert fuse_rankings([], []) == []


def test_a_document_with_more_to_say_comes_before_one_that_mentions_it() -> None:
    assert numbers(fuse_rankings(by_words("mentions", "explains", "explains", "explains")))[0] == 1


def test_many_weak_passages_do_not_outweigh_a_strong_one() -> None:
    others = [f"other {number}" for number in range(20)]
    assert numbers(fuse_rankings(by_words("strong", *others, *["long"] * 200)))[0] == 0
