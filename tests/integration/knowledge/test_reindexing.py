"""Documents whose index entry is of another analysis, or missing: they are indexed again, and found meanwhile."""

import asyncio
import secrets
from collections.abc import AsyncIterator
from pathlib import Path

import asyncpg
import pytest

from flotilla.knowledge import KnowledgeBase, UploadedDocument, indexing, reindexing
from flotilla.knowledge.reindexing import ReindexingJob
from flotilla.postgres import Pool, open_pool, tenant_transaction
from flotilla.postgres.schema import MIGRATIONS
from flotilla_devstack import RunningStack
from tests.integration.knowledge.index_contents import analysed_passages, postings
from tests.support.postgres import Database, cloned

TENANTS = ("acme", "globex")
BEFORE = "0017_exact_search"
# What the version before wrote for the document "# Cats / Cats eat fish."; weights as its BM25 made them.
_OLD = """
INSERT INTO flotilla.documents
    (tenant_id, document_id, uri, title, media_type, content_hash, size_bytes, body, passages)
VALUES ('acme', 'd1', 'cats.md', 'Cats', 'text/markdown', 'h1', 23, E'Cats\n\nCats eat fish.', 1);
INSERT INTO flotilla.passages
    (tenant_id, document_id, ordinal, heading, start_offset, end_offset, body, terms, weights)
VALUES ('acme', 'd1', 0, 'Cats', 0, 20, E'Cats\n\nCats eat fish.', '{cat,eat,fish}', '{1973,1428,1428}');
INSERT INTO flotilla.passage_terms
SELECT 'acme', t.term, t.weight, p.passage_no
FROM flotilla.passages AS p, unnest(p.terms, p.weights) AS t (term, weight);
INSERT INTO flotilla.term_statistics VALUES ('acme', 'cat', 1), ('acme', 'eat', 1), ('acme', 'fish', 1);
INSERT INTO flotilla.knowledge_bases VALUES ('acme', 1);
"""


async def _fill(pool: Pool) -> None:
    for tenant in TENANTS:
        for n in range(5):
            page = f"# Cats {n}\n\nCats of kind {n} eat fish.\n\n# Dogs {n}\n\nDogs of kind {n} eat bones.\n"
            await KnowledgeBase(pool).add(tenant, UploadedDocument(uri=f"{n}.md", content=page.encode()))


async def _assert_indexed(pool: Pool, tenant_id: str, passages: int) -> None:
    async with tenant_transaction(pool, tenant_id) as connection:
        contents = await postings(connection)
        assert contents == await analysed_passages(connection)
        assert len({one[:2] for one in contents}) == passages
        counted = await connection.fetchrow("SELECT indexed_passages, indexed_length FROM flotilla.knowledge_bases")
        assert counted is not None
        assert counted["indexed_passages"] == passages
        assert counted["indexed_length"] == sum(count for *_, count, _ in contents)


async def test_another_version_of_the_analysis_indexes_everything_again(
    pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    await _fill(pool)
    assert await ReindexingJob(pool, "en").reindex_outdated(asyncio.Event()) == 0
    monkeypatch.setattr("flotilla.knowledge.analysis.VERSION", "next")
    monkeypatch.setattr(reindexing, "VERSION", "next")

    assert await ReindexingJob(pool, "en").reindex_outdated(asyncio.Event()) == 10

    for tenant in TENANTS:
        await _assert_indexed(pool, tenant, 10)
    assert await ReindexingJob(pool, "en").reindex_outdated(asyncio.Event()) == 0


async def test_what_is_interrupted_is_found_by_its_old_entry_and_finished_later(
    pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    await _fill(pool)
    monkeypatch.setattr("flotilla.knowledge.analysis.VERSION", "next")
    monkeypatch.setattr(reindexing, "VERSION", "next")
    insert, done = indexing.index_document, 0

    async def dies_at_the_third(*arguments: object) -> None:
        nonlocal done
        done += 1
        if done == 3:
            raise ConnectionResetError("killed between taking out and putting in")
        await insert(*arguments)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(indexing, "index_document", dies_at_the_third)
        with pytest.raises(ConnectionResetError):
            await ReindexingJob(pool, "en").reindex_outdated(asyncio.Event())
    for tenant in TENANTS:
        await _assert_indexed(pool, tenant, 10)
        assert len(await KnowledgeBase(pool).search(tenant, "fish", 50)) == 5

    assert await ReindexingJob(pool, "en").reindex_outdated(asyncio.Event()) == 8


async def test_two_replicas_at_once_index_each_document_once(pool: Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    await _fill(pool)
    monkeypatch.setattr("flotilla.knowledge.analysis.VERSION", "next")
    monkeypatch.setattr(reindexing, "VERSION", "next")
    done = await asyncio.gather(*(ReindexingJob(pool, "en").reindex_outdated(asyncio.Event()) for _ in range(3)))
    assert sum(done) == 10
    await _assert_indexed(pool, "acme", 10)


async def test_a_document_that_the_version_before_replaced_is_indexed_again(pool: Pool) -> None:
    await _fill(pool)
    async with tenant_transaction(pool, "acme") as connection:
        await connection.execute("UPDATE flotilla.passages SET body = 'Bats eat moths.' WHERE body LIKE '%kind 3%'")
        await connection.execute("UPDATE flotilla.documents SET content_hash = 'other' WHERE uri = '3.md'")
    assert await ReindexingJob(pool, "en").reindex_outdated(asyncio.Event()) == 1
    assert [one.source.uri for one in await KnowledgeBase(pool).search("acme", "moths")] == ["3.md"]
    await _assert_indexed(pool, "acme", 10)


@pytest.fixture
async def old_pool(stack: RunningStack, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> AsyncIterator[Pool]:
    """A database with a document of the version before, migrated."""
    from flotilla.postgres import migrate

    for script in sorted(MIGRATIONS.glob("*.sql")):
        if script.stem < BEFORE:
            (tmp_path / script.name).write_bytes(script.read_bytes())
    async with cloned(stack.postgres_dsn("postgres"), "template1", f"old_{secrets.token_hex(6)}") as database:
        with monkeypatch.context() as patch:
            patch.setattr(migrate, "MIGRATIONS", tmp_path)
            migrate.migrate(database.superuser_dsn)
        await _execute(database, _OLD)
        migrate.migrate(database.superuser_dsn)
        async with open_pool(database.dsn(), application="test") as pool:
            yield pool


async def _execute(database: Database, statements: str) -> None:
    connection = await asyncpg.connect(database.superuser_dsn)
    try:
        await connection.execute(statements)
    finally:
        await connection.close()


async def test_what_was_indexed_before_the_upgrade_is_found_at_once_and_then_indexed_again(old_pool: Pool) -> None:
    knowledge = KnowledgeBase(old_pool)
    [before] = await knowledge.search("acme", "what do cats eat?")
    assert (before.source.uri, before.text) == ("cats.md", "Cats\n\nCats eat fish.")

    assert await ReindexingJob(old_pool, "en").reindex_outdated(asyncio.Event()) == 1

    [after] = await knowledge.search("acme", "what do cats eat?")
    assert after.source.passage_id == before.source.passage_id
    await _assert_indexed(old_pool, "acme", 1)
