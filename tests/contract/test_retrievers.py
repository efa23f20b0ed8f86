"""The same cases for every retriever."""

import pytest

from flotilla.contracts.errors import Invalid, NotFound
from flotilla.knowledge import DocumentRetriever, KnowledgeBase, UploadedDocument
from flotilla.postgres import Pool, tenant_transaction

CATS = UploadedDocument(uri="cats.md", content=b"# Cats\n\nCats eat fish and sleep on the sofa.")
DOGS = UploadedDocument(uri="dogs.md", content=b"# Dogs\n\nDogs eat bones and sleep in the kennel.")
# Whatever still names a document or a passage.
_LEFT = """
SELECT (SELECT count(*) FROM flotilla.documents) + (SELECT count(*) FROM flotilla.passages)
     + (SELECT count(*) FROM flotilla.postings) + (SELECT count(*) FROM flotilla.indexed_documents)
     + (SELECT count(*) FROM flotilla.passage_embeddings)
     + (SELECT passages + indexed_passages + indexed_length FROM flotilla.knowledge_bases)
"""


@pytest.fixture(params=["postgres"])
def retriever(request: pytest.FixtureRequest, pool: Pool) -> DocumentRetriever:
    """Each implementation, empty."""
    return {"postgres": KnowledgeBase}[request.param](pool)


async def _uris(retriever: DocumentRetriever, query: str, tenant_id: str = "acme") -> list[str]:
    return [passage.source.uri for passage in await retriever.search(tenant_id, query)]


async def test_what_was_added_is_found_best_first(retriever: DocumentRetriever) -> None:
    await retriever.add("acme", CATS)
    await retriever.add("acme", DOGS)
    assert await _uris(retriever, "who eats bones?") == ["dogs.md", "cats.md"]


async def test_the_same_uri_replaces(retriever: DocumentRetriever) -> None:
    first = await retriever.add("acme", CATS)
    again = await retriever.add("acme", UploadedDocument(uri="cats.md", content=b"Cats drink milk."))
    assert again.document_id == first.document_id
    assert await _uris(retriever, "fish") == []
    assert await _uris(retriever, "milk") == ["cats.md"]


async def test_the_same_content_again_is_unchanged(retriever: DocumentRetriever) -> None:
    assert [(await retriever.add("acme", CATS)).unchanged for _ in range(2)] == [False, True]


async def test_what_was_removed_is_found_nowhere_and_can_be_added_again(retriever: DocumentRetriever) -> None:
    added = await retriever.add("acme", CATS)
    await retriever.add("acme", DOGS)
    await retriever.remove("acme", added.document_id)
    assert await _uris(retriever, "cats fish sofa") == []
    assert await _uris(retriever, "eat sleep") == ["dogs.md"]
    assert not (await retriever.add("acme", CATS)).unchanged
    assert await _uris(retriever, "fish") == ["cats.md"]


async def test_a_tenant_neither_finds_nor_removes_what_is_anothers(retriever: DocumentRetriever) -> None:
    added = await retriever.add("acme", CATS)
    assert await _uris(retriever, "cats", "globex") == []
    with pytest.raises(NotFound):
        await retriever.remove("globex", added.document_id)
    assert await _uris(retriever, "cats") == ["cats.md"]


async def test_what_is_not_there_can_not_be_removed(retriever: DocumentRetriever) -> None:
    with pytest.raises(NotFound):
        await retriever.remove("acme", "unknown")


async def test_a_number_of_passages_out_of_bounds_is_refused(retriever: DocumentRetriever) -> None:
    for k in (0, 51):
        with pytest.raises(Invalid):
            await retriever.search("acme", "cats", k)


async def test_a_removed_document_leaves_nothing_in_postgres(pool: Pool) -> None:
    knowledge = KnowledgeBase(pool)
    added = await knowledge.add("acme", CATS)
    async with tenant_transaction(pool, "acme") as connection:
        await connection.execute(
            "INSERT INTO flotilla.passage_embeddings "
            "SELECT tenant_id, passage_no, 'm@1', '[1,0]' FROM flotilla.passages"
        )
    await knowledge.remove("acme", added.document_id)
    async with tenant_transaction(pool, "acme") as connection:
        assert await connection.fetchval(_LEFT) == 0
