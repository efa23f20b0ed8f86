"""The ranking in SQL against BM25 written out in Python."""

import math
import random
from collections import defaultdict

import pytest

from flotilla.contracts.tasks import Passage
from flotilla.knowledge import KnowledgeBase, Ranking, Upload
from flotilla.knowledge.terms import WEIGHT_UNIT, compounds
from flotilla.postgres import Pool, tenant_transaction

VOCABULARY = [f"word{n}" for n in range(60)]
EVERYTHING = Ranking(postings=1_000_000, candidates=1_000_000)
LEXEMES = "SELECT lexeme FROM unnest(to_tsvector('english', $1))"


@pytest.fixture
async def filled(pool: Pool) -> Pool:
    """300 passages whose words have very different frequencies."""
    draw = random.Random(3)  # noqa: S311 - not for secrets
    shares = [1 / (rank + 1) for rank in range(len(VOCABULARY))]
    sections = (" ".join(draw.choices(VOCABULARY, shares, k=draw.randint(5, 80))) for _ in range(300))
    text = "".join(f"# S{n}\n\n{section}.\n\n" for n, section in enumerate(sections))
    await KnowledgeBase(pool).add("acme", Upload(uri="t.md", content=text.encode(), title="T"))
    return pool


async def exact(pool: Pool, query: str, k: int) -> list[tuple[str, float]]:
    """Passage ids and scores by the formula, over every passage."""
    async with tenant_transaction(pool, "acme") as connection:
        vectors = await connection.fetch("SELECT passage_no, terms, weights FROM flotilla.passages")
        terms = {row[0] for row in await connection.fetch(LEXEMES, query)} | set(compounds(query))
    frequency: dict[str, int] = defaultdict(int)
    for row in vectors:
        for term in row["terms"]:
            frequency[term] += 1
    idf = {t: math.log(1 + (len(vectors) - frequency[t] + 0.5) / (frequency[t] + 0.5)) for t in terms}
    whole = WEIGHT_UNIT * sum(idf.values())
    scores = {
        row["passage_no"]: sum(idf.get(t, 0) * w for t, w in zip(row["terms"], row["weights"], strict=True))
        for row in vectors
    }
    best = sorted(scores, key=lambda number: (-scores[number], number))[:k]
    return [(str(number), round(scores[number] / whole, 4)) for number in best if scores[number] > 0]


def ids(passages: list[Passage]) -> list[tuple[str, float]]:
    return [(passage.source.passage_id, passage.source.score) for passage in passages]


@pytest.mark.parametrize("seed", range(5))
async def test_reading_everything_gives_the_ranking_of_the_formula(filled: Pool, seed: int) -> None:
    knowledge = KnowledgeBase(filled, ranking=EVERYTHING)
    draw = random.Random(seed)  # noqa: S311 - not for secrets
    for count in (1, 2, 3, 6):
        query = " ".join(draw.sample(VOCABULARY, count))
        assert ids(await knowledge.search("acme", query, 5)) == await exact(filled, query, 5)


@pytest.mark.parametrize("seed", range(5))
async def test_reading_some_postings_gives_exact_scores_and_hardly_ever_another_best(filled: Pool, seed: int) -> None:
    knowledge = KnowledgeBase(filled, ranking=Ranking(postings=200, candidates=50))
    draw = random.Random(seed)  # noqa: S311 - not for secrets
    for count in (1, 2, 3):
        query = " ".join(draw.sample(VOCABULARY, count))
        found, wanted = ids(await knowledge.search("acme", query, 5)), await exact(filled, query, 300)
        assert set(found) <= set(wanted)
        assert sum(score for _, score in found) >= 0.9 * sum(score for _, score in wanted[:5])


async def test_a_rare_word_is_read_to_the_end_however_common_the_others_are(filled: Pool) -> None:
    await KnowledgeBase(filled).add("acme", Upload(uri="x", content=b"word0 word1 zeppelin", media_type="text/plain"))
    knowledge = KnowledgeBase(filled, ranking=Ranking(postings=9, candidates=5))
    [best, *_] = await knowledge.search("acme", "word0 word1 zeppelin", 5)
    assert "zeppelin" in best.text


async def test_a_term_that_was_not_met_in_a_list_of_heavy_ones_is_not_taken_to_be_absent(pool: Pool) -> None:
    """Alpha is heavy in so many passages that the best one is beyond what is read of its list. Its beta, which is read,
    weighs a little less than their alpha: it is the best only with the alpha that it probably has, too."""
    heavy = [" ".join(["alpha"] * 6)] * 40
    light = ["beta " + " ".join(f"filler{n}" for n in range(100))] * 40
    sections = [*heavy, " ".join(["alpha"] * 3 + ["beta"] * 3), *light]
    text = "".join(f"# S{n}\n\n{section}.\n\n" for n, section in enumerate(sections))
    knowledge = KnowledgeBase(pool, ranking=Ranking(postings=20, candidates=1))
    await knowledge.add("acme", Upload(uri="a.md", content=text.encode(), title="T"))

    [best] = await knowledge.search("acme", "alpha beta", 1)

    assert "alpha alpha alpha beta beta beta" in best.text


async def test_lists_that_use_the_budget_up_exactly_are_read(pool: Pool) -> None:
    text = "".join(f"# S{n}\n\nalpha beta gamma{n}\n\n" for n in range(4))
    await KnowledgeBase(pool).add("acme", Upload(uri="a.md", content=text.encode()))
    assert len(await KnowledgeBase(pool, ranking=Ranking(postings=8)).search("acme", "alpha beta", 5)) == 4


async def test_a_question_of_a_thousand_words_is_searched_by_its_rarest(filled: Pool) -> None:
    await KnowledgeBase(filled).add("acme", Upload(uri="x", content=b"only zeppelin here", media_type="text/plain"))
    query = " ".join([f"unknown{n}" for n in range(1000)] + VOCABULARY + ["zeppelin"])
    assert len(await KnowledgeBase(filled).search("acme", query, 5)) == 5
