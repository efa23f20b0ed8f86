"""The ranking in PostgreSQL against `bm25s` on the same terms of the same passages, of real text."""

import importlib
import inspect
import random
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from flotilla.knowledge import KnowledgeBase, RankingOptions, UploadedDocument
from flotilla.knowledge.analysis import analyse_passage, query_terms
from flotilla.knowledge.postings import BLOCK_SLOTS, K1, B
from flotilla.knowledge.ranking import rank_rows
from flotilla.postgres import Pool, tenant_snapshot

DOCS = Path(__file__).parents[3] / "docs"
MODULES = """
argparse asyncio.tasks calendar collections configparser csv datetime decimal difflib doctest email.message enum
fractions ftplib functools gettext heapq http.client inspect ipaddress json locale logging mailbox multiprocessing.pool
optparse os pathlib pdb pickle platform random sched shutil smtplib socket sqlite3 ssl statistics string subprocess
tarfile tempfile textwrap threading timeit trace traceback unittest.case unittest.mock urllib.request uuid zipfile
"""
K = 10
_PASSAGES = """
SELECT p.passage_no, concat_ws(E'\n', d.title, p.heading, p.body) AS text
FROM flotilla.passages AS p JOIN flotilla.documents AS d USING (tenant_id, document_id) ORDER BY p.passage_no
"""


def _docstrings(name: str) -> str:
    """The documentation of a module of Python, as a page."""
    module = importlib.import_module(name)
    members = [member for _, member in inspect.getmembers(module) if inspect.isclass(member)]
    parts = [(name, module), *((one.__name__, one) for one in members)]
    for owner in members:
        parts += [(f"{owner.__name__}.{key}", value) for key, value in vars(owner).items() if inspect.isfunction(value)]
    parts += [(key, value) for key, value in vars(module).items() if inspect.isfunction(value)]
    return "\n\n".join(f"## {title}\n\n{text}" for title, one in parts if (text := inspect.getdoc(one)))


def _real_text() -> Iterable[UploadedDocument]:
    for page in sorted(DOCS.rglob("*.md")):
        yield UploadedDocument(uri=str(page.relative_to(DOCS)), content=page.read_bytes())
    for name in MODULES.split():
        yield UploadedDocument(uri=f"{name}.md", title=name, content=_docstrings(name).encode())


@pytest.fixture
async def filled(pool: Pool) -> Pool:
    """The project's and Python's documentation: more than two blocks of slots, some of them freed again."""
    knowledge = KnowledgeBase(pool)
    await knowledge.add("acme", UploadedDocument(uri="argparse.md", content=_docstrings("unittest.mock").encode()))
    for upload in _real_text():
        await knowledge.add("acme", upload)
    async with tenant_snapshot(pool, "acme") as connection:
        assert await connection.fetchval("SELECT max(slot) FROM flotilla.indexed_documents") > 2 * BLOCK_SLOTS
    return pool


class Peer:
    """`bm25s` on the same terms."""

    def __init__(self, passages: list[tuple[int, str]]) -> None:
        self.numbers = [number for number, _ in passages]
        counted = [analyse_passage(text, "en").counts for _, text in passages]
        self.terms = [[term for term, count in counts.items() for _ in range(count)] for counts in counted]
        bm25s: Any = importlib.import_module("bm25s")
        self._index: Any = bm25s.BM25(method="lucene", k1=K1, b=B)
        self._index.index(self.terms, show_progress=False)

    def scores(self, query: str) -> dict[int, float]:
        """The score of every passage."""
        terms = [form for term in query_terms(query, ["en"]) for form in term.forms]
        return dict(zip(self.numbers, self._index.get_scores(terms).tolist(), strict=True))


async def test_the_ten_best_of_real_text_are_those_of_exact_bm25(filled: Pool) -> None:
    """Recall, not score: of the ten that exact BM25 ranks highest none is missed. Of equal ones, either may come."""
    async with tenant_snapshot(filled, "acme") as connection:
        peer = Peer([tuple(row) for row in await connection.fetch(_PASSAGES)])
        for query in _questions(peer):
            found = [row["passage_no"] for row in await rank_rows(connection, "acme", query, K)]
            scores = peer.scores(query)
            tenth = sorted(scores.values(), reverse=True)[K - 1]
            missed = [number for number, score in scores.items() if score > tenth + 1e-4 and number not in found]
            assert not missed, query
            assert all(scores[number] > tenth - 1e-4 for number in found), query


def _questions(peer: Peer) -> list[str]:
    """Words as they stand in passages, common ones too: lists of every length in one question."""
    draw = random.Random(5)  # noqa: S311 - not for secrets
    drawn = [draw.choice(peer.terms) for _ in range(120)]
    return [" ".join(draw.choices(terms, k=draw.randint(1, 12))) for terms in drawn]


async def test_a_question_of_a_thousand_words_is_searched_by_its_rarest(pool: Pool) -> None:
    knowledge = KnowledgeBase(pool)
    common = _docstrings("string").split()
    for n in range(5):
        await knowledge.add("acme", UploadedDocument(uri=f"{n}.txt", content=f"{n} {' '.join(common)}".encode()))
    await knowledge.add("acme", UploadedDocument(uri="x", content=b"only zeppelin here", media_type="text/plain"))
    query = " ".join([f"unknown{n}" for n in range(1000)] + common[:300] + ["zeppelin"])
    assert any("zeppelin" in passage.text for passage in await knowledge.search("acme", query, 5))


async def test_what_ten_pages_repeat_is_found_once(pool: Pool) -> None:
    knowledge = KnowledgeBase(pool)
    option = "Use the option --quiet to write nothing but errors to the terminal, whatever happens."
    for n in range(10):
        page = f"# Command {n}\n\nThe command number {n}.\n\n## Options\n\n{option}\n"
        await knowledge.add("acme", UploadedDocument(uri=f"{n}.md", content=page.encode()))
    await knowledge.add(
        "acme", UploadedDocument(uri="loud.md", content=b"# Loudness\n\nA terminal that is quiet is a good one.")
    )

    found = await knowledge.search("acme", "quiet terminal", 5)

    assert sum(option in passage.text for passage in found) == 1
    assert any(passage.source.uri == "loud.md" for passage in found)


async def test_a_document_returns_its_share_while_others_match(pool: Pool) -> None:
    long = "".join(f"# Fish {n}\n\nFish number {n} is a fish of fish, and fish it is.\n\n" for n in range(20))
    knowledge = KnowledgeBase(pool, ranking=RankingOptions(per_document=2))
    await knowledge.add("acme", UploadedDocument(uri="long.md", content=long.encode()))
    for n in range(3):
        text = f"Somebody told me story {n} about a boat, a lake, the weather of that year and one fish."
        await knowledge.add("acme", UploadedDocument(uri=f"{n}.txt", content=text.encode()))

    uris = [passage.source.uri for passage in await knowledge.search("acme", "fish", 5)]

    assert uris.count("long.md") == 2
    assert len(set(uris)) == 4


async def test_a_single_document_fills_the_list(pool: Pool) -> None:
    long = "".join(f"# Fish {n}\n\nFish number {n} lives in lake {n * 7}.\n\n" for n in range(20))
    knowledge = KnowledgeBase(pool)
    await knowledge.add("acme", UploadedDocument(uri="long.md", content=long.encode()))
    found = await knowledge.search("acme", "fish", 5)
    assert len(found) == 5
    assert [one.source.score for one in found] == sorted((one.source.score for one in found), reverse=True)


async def test_slots_that_lie_far_apart_are_added_up_as_well(pool: Pool) -> None:
    knowledge = KnowledgeBase(pool)
    await knowledge.add("acme", UploadedDocument(uri="a.txt", content=b"fish and milk"))
    async with pool.acquire() as connection, connection.transaction():
        await connection.execute("SELECT set_config('flotilla.tenant_id', 'acme', true)")
        await connection.execute("UPDATE flotilla.knowledge_bases SET next_slot = 5000000000")
    await knowledge.add("acme", UploadedDocument(uri="b.txt", content=b"fish, milk and cats"))
    assert [one.source.uri for one in await knowledge.search("acme", "fish milk cats")] == ["b.txt", "a.txt"]
    await knowledge.add("acme", UploadedDocument(uri="b.txt", content=b"nothing"))
    assert [one.source.uri for one in await knowledge.search("acme", "fish milk cats")] == ["a.txt"]
