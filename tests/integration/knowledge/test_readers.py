"""Documents that not everybody may read: found, and read, by their readers and by what agents do for them."""

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import pytest

from flotilla.contracts.errors import Forbidden, NotFound
from flotilla.contracts.identity import group_name, user_name
from flotilla.knowledge import KnowledgeBase, UploadedDocument, unreadable_and_missing_documents
from flotilla.knowledge.embedding import PassageEmbedding
from flotilla.postgres import ITSELF, Pool, Viewer, acting_as, tenant_transaction

ALICE, BOB = user_name("flotilla", "alice"), user_name("flotilla", "bob")
FINANCE = group_name("flotilla", "finance")
SECRET = UploadedDocument(
    uri="pay.md", content=b"# Pay\n\nThe director earns 9,000 euros of salary.", readers=(ALICE, FINANCE)
)
OPEN = UploadedDocument(uri="rules.md", content=b"# Rules\n\nThe salary is paid on the last day of the month.")
TABLES = ("documents", "passages", "indexed_documents", "passage_embeddings")


class Meaning:
    """Every text means the same."""

    name = "meaning"

    async def embed(self, texts: Sequence[str]) -> list[list[float]]:
        return [[1.0] * 384 for _ in texts]


@contextmanager
def seen_by(*names: str) -> Iterator[None]:
    with acting_as(Viewer(names=names)):
        yield


async def found(
    knowledge: KnowledgeBase, query: str = "salary of the director", session_id: str | None = None
) -> set[str]:
    return {one.source.uri for one in await knowledge.search("acme", query, 5, session_id)}


@pytest.fixture
async def knowledge(pool: Pool) -> KnowledgeBase:
    knowledge = KnowledgeBase(pool)
    for upload in (SECRET, OPEN):
        await knowledge.add("acme", upload)
    return knowledge


async def test_only_its_readers_find_it(knowledge: KnowledgeBase) -> None:
    for names in ((ALICE,), (BOB, FINANCE)):
        with seen_by(*names):
            assert await found(knowledge) == {"pay.md", "rules.md"}
    with seen_by(BOB):
        assert await found(knowledge) == {"rules.md"}
    with seen_by():
        assert await found(knowledge) == {"rules.md"}
    with acting_as(ITSELF):
        assert await found(knowledge) == {"pay.md", "rules.md"}


async def hidden_and_missing(pool: Pool, *document_ids: str) -> tuple[set[str], set[str]]:
    async with tenant_transaction(pool, "acme") as connection:
        return await unreadable_and_missing_documents(connection, "acme", document_ids)


async def test_nobody_else_reads_it_lists_it_or_changes_it(knowledge: KnowledgeBase, pool: Pool) -> None:
    [secret] = [one for one in await knowledge.list("acme") if one.uri == "pay.md"]
    assert secret.readers == [ALICE, FINANCE]
    with seen_by(BOB):
        assert [one.uri for one in await knowledge.list("acme")] == ["rules.md"]
        for call in (
            knowledge.document("acme", secret.document_id),
            knowledge.text("acme", secret.document_id),
            knowledge.remove("acme", secret.document_id),
            knowledge.replace("acme", secret.document_id, OPEN),
            knowledge.set_readers("acme", secret.document_id, None),
        ):
            with pytest.raises(NotFound):
                await call
        with pytest.raises(Forbidden, match="may not read"):
            await knowledge.add("acme", UploadedDocument(uri="pay.md", content=b"Bob earns more salary."))
        assert await hidden_and_missing(pool, secret.document_id, "unknown") == ({secret.document_id}, {"unknown"})
    with seen_by(ALICE):
        assert "9,000" in await knowledge.text("acme", secret.document_id)
        assert await hidden_and_missing(pool, secret.document_id) == (set(), set())


async def test_the_tables_show_no_row_of_it(knowledge: KnowledgeBase, pool: Pool) -> None:
    await PassageEmbedding(pool, Meaning()).embed_new_passages(asyncio.Event())
    counts = {}
    for names in ((ALICE,), (BOB,)):
        with seen_by(*names):
            async with tenant_transaction(pool, "acme") as connection:
                counts[names] = [
                    await connection.fetchval(f"SELECT count(*) FROM flotilla.{table}") for table in TABLES
                ]
    assert counts[(ALICE,)] == [2, 2, 2, 2]
    assert counts[(BOB,)] == [1, 1, 1, 1]


async def test_it_is_not_found_by_meaning_either_and_takes_nobodys_place(pool: Pool) -> None:
    knowledge = KnowledgeBase(pool, embedder=Meaning())
    for number in range(30):
        text = f"# Pay {number}\n\nSalary salary of director number {number}."
        await knowledge.add("acme", UploadedDocument(uri=f"pay{number}.md", content=text.encode(), readers=(ALICE,)))
    await knowledge.add("acme", OPEN)
    await PassageEmbedding(pool, Meaning()).embed_new_passages(asyncio.Event())
    with seen_by(BOB):
        assert [one.source.uri for one in await knowledge.search("acme", "salary of the director", 1)] == ["rules.md"]


async def test_readers_are_kept_when_the_content_changes_and_changed_without_it(knowledge: KnowledgeBase) -> None:
    again = UploadedDocument(uri="pay.md", content=b"# Pay\n\nThe director earns 9,500 euros of salary.")
    added = await knowledge.add("acme", again)
    with seen_by(BOB):
        assert await found(knowledge) == {"rules.md"}
    await knowledge.set_readers("acme", added.document_id, [BOB])
    with seen_by(BOB):
        assert await found(knowledge) == {"pay.md", "rules.md"}
    with seen_by(ALICE):
        assert await found(knowledge) == {"rules.md"}
    await knowledge.add("acme", UploadedDocument(uri="pay.md", content=again.content, readers=(ALICE,)))
    with seen_by(BOB):
        assert await found(knowledge) == {"rules.md"}
    await knowledge.set_readers("acme", added.document_id, None)
    with seen_by():
        assert await found(knowledge) == {"pay.md", "rules.md"}


async def test_an_attachment_is_found_in_its_session_only(knowledge: KnowledgeBase, pool: Pool) -> None:
    async with tenant_transaction(pool, "acme") as connection:
        await connection.execute(
            "INSERT INTO flotilla.sessions (tenant_id, session_id, user_id, owner, visibility) "
            "VALUES ('acme', 's1', 'alice', $1, 'private')",
            ALICE,
        )
    note = UploadedDocument(uri="session:s1/note.md", content=b"# Note\n\nThe salary is late.", attached_to="s1")
    attached = await knowledge.add("acme", note)
    assert note.uri not in await found(knowledge, "salary late")
    assert note.uri not in await found(knowledge, "salary late", "s2")
    assert note.uri in await found(knowledge, "salary late", "s1")
    with seen_by(ALICE):
        assert note.uri in await found(knowledge, "salary late", "s1")
        assert note.uri not in await found(knowledge, "salary late")
    with seen_by(BOB):
        assert note.uri not in await found(knowledge, "salary late", "s1")
        with pytest.raises(NotFound):
            await knowledge.document("acme", attached.document_id)
