"""Searches by meaning: embedded in the background, fused with the ranking by words, per tenant."""

import asyncio
from collections.abc import Sequence

import asyncpg
import pytest

from flotilla.contracts.errors import RetryLater
from flotilla.knowledge import KnowledgeBase, UploadedDocument, meaning
from flotilla.knowledge.embedding import PassageEmbedding
from flotilla.postgres import Pool, open_pool, tenant_transaction
from tests.support.postgres import Database

MEANINGS = (("cat", "feline", "kitten"), ("eat", "food", "meal"), ("car", "vehicle", "engine"), ("bone", "skeleton"))
DIMENSIONS = 384
NEVER = asyncio.Event()


class Synonyms:
    """A model that knows a few synonyms: one dimension for each meaning."""

    def __init__(self, name: str = "synonyms@1") -> None:
        self.name = name
        self.away = False
        self.calls = 0

    async def embed(self, texts: Sequence[str]) -> list[list[float]]:
        self.calls += 1
        if self.away:
            raise RetryLater("the model is away")
        return [self._vector(text.lower()) for text in texts]

    def _vector(self, text: str) -> list[float]:
        known = [float(any(word in text for word in words)) for words in MEANINGS]
        return [*known, 0.1, *[0.0] * (DIMENSIONS - len(known) - 1)]


@pytest.fixture
def model() -> Synonyms:
    return Synonyms()


@pytest.fixture
def knowledge(pool: Pool, model: Synonyms) -> KnowledgeBase:
    return KnowledgeBase(pool, embedder=model)


async def _add(knowledge: KnowledgeBase, tenant: str = "acme", **documents: str) -> None:
    for name, text in documents.items():
        await knowledge.add(tenant, UploadedDocument(uri=f"{name}.txt", content=text.encode()))


async def _found(knowledge: KnowledgeBase, query: str, tenant: str = "acme") -> list[str]:
    return [passage.source.uri for passage in await knowledge.search(tenant, query)]


async def _embedded(pool: Pool, tenant: str = "acme") -> set[str]:
    async with tenant_transaction(pool, tenant) as connection:
        rows = await connection.fetch(
            "SELECT model FROM flotilla.passage_embeddings WHERE tenant_id = $1 AND vector_dims(embedding) = $2",
            tenant,
            DIMENSIONS,
        )
    return {row["model"] for row in rows}


async def test_a_passage_is_found_by_what_it_means(knowledge: KnowledgeBase, pool: Pool, model: Synonyms) -> None:
    await _add(knowledge, feline="A feline sleeps all day.", motor="The engine needs oil.")
    assert await _found(knowledge, "kitten") == []

    assert await PassageEmbedding(pool, model).embed_new_passages(NEVER) == 2

    assert (await _found(knowledge, "kitten"))[0] == "feline.txt"
    assert await PassageEmbedding(pool, model).embed_new_passages(NEVER) == 0


async def test_words_and_meaning_together_outrank_either(knowledge: KnowledgeBase, pool: Pool, model: Synonyms) -> None:
    await _add(
        knowledge,
        both="A cat has its food at seven.",
        words="The word cat has three letters; seven cats have twenty-one.",
        meaning="Felines like their meal early in the morning.",
    )
    await PassageEmbedding(pool, model).embed_new_passages(NEVER)
    assert (await _found(knowledge, "cat food at seven"))[0] == "both.txt"


async def test_a_tenant_finds_nothing_of_another_by_meaning(
    knowledge: KnowledgeBase, pool: Pool, model: Synonyms
) -> None:
    for n in range(300):
        await _add(knowledge, "globex", **{f"cat{n}": f"Cat number {n} is a feline."})
    await _add(knowledge, "acme", motor="The engine of a vehicle.", dog="A skeleton of bone.")
    await PassageEmbedding(pool, model).embed_new_passages(NEVER)

    assert set(await _found(knowledge, "kitten", "acme")) <= {"motor.txt", "dog.txt"}
    assert (await _found(knowledge, "car", "acme"))[0] == "motor.txt"
    assert await _found(knowledge, "kitten", "initech") == []


async def test_a_replaced_document_is_found_by_its_old_meaning_nowhere(
    knowledge: KnowledgeBase, pool: Pool, model: Synonyms
) -> None:
    await _add(knowledge, one="A feline sleeps.")
    await PassageEmbedding(pool, model).embed_new_passages(NEVER)
    await _add(knowledge, one="The engine needs oil.")
    async with tenant_transaction(pool, "acme") as connection:
        assert await connection.fetchval("SELECT count(*) FROM flotilla.passage_embeddings") == 0
    assert await _found(knowledge, "kitten") == []
    await PassageEmbedding(pool, model).embed_new_passages(NEVER)
    assert await _found(knowledge, "car") == ["one.txt"]


async def test_another_model_serves_once_everything_is_embedded_by_it(
    knowledge: KnowledgeBase, pool: Pool, model: Synonyms
) -> None:
    await _add(knowledge, **{f"n{n}": f"A feline, number {n}." for n in range(40)})
    await PassageEmbedding(pool, model).embed_new_passages(NEVER)
    newer = Synonyms("synonyms@2")
    with_newer = KnowledgeBase(pool, embedder=newer)

    class DiesInTheMiddle(Synonyms):
        async def embed(self, texts: Sequence[str]) -> list[list[float]]:
            if self.calls:
                raise ConnectionResetError("killed in the middle")
            return await super().embed(texts)

    with pytest.raises(ConnectionResetError):
        await PassageEmbedding(pool, DiesInTheMiddle("synonyms@2")).embed_new_passages(NEVER)
    assert await _embedded(pool) == {"synonyms@1", "synonyms@2"}
    assert len(await _found(knowledge, "kitten")) == 5
    assert await _found(with_newer, "kitten") == []

    assert await PassageEmbedding(pool, newer).embed_new_passages(NEVER) == 8

    assert await _embedded(pool) == {"synonyms@2"}
    assert len(await _found(with_newer, "kitten")) == 5


async def test_replicas_that_embed_at_once_store_each_passage_once(pool: Pool, model: Synonyms) -> None:
    await _add(KnowledgeBase(pool), **{f"n{n}": f"A feline, number {n}." for n in range(40)})
    await asyncio.gather(*(PassageEmbedding(pool, Synonyms()).embed_new_passages(NEVER) for _ in range(3)))
    async with tenant_transaction(pool, "acme") as connection:
        assert await connection.fetchval("SELECT count(*) FROM flotilla.passage_embeddings") == 40


async def test_without_the_model_words_decide(knowledge: KnowledgeBase, pool: Pool, model: Synonyms) -> None:
    await _add(knowledge, feline="A feline sleeps all day.", cat="A cat eats fish.")
    await PassageEmbedding(pool, model).embed_new_passages(NEVER)
    model.away = True
    assert await _found(knowledge, "cat") == ["cat.txt"]


_LARGE_TENANT = f"""
INSERT INTO flotilla.passages (tenant_id, document_id, ordinal, heading, start_offset, end_offset, body)
SELECT 'large', 'd', n, '', 0, 1, 'x' FROM generate_series(1, 1999) AS n;
INSERT INTO flotilla.passage_embeddings (tenant_id, passage_no, model, embedding)
SELECT tenant_id, passage_no, 'synonyms@1',
    ('[1,' || random() / 10 || repeat(',0', {DIMENSIONS - 2}) || ']')::halfvec({DIMENSIONS})
FROM flotilla.passages WHERE tenant_id = 'large' AND ordinal > 0;
"""
# What makes a planner that knows nothing of a tenant take the graph, which then finds the other tenant's passages.
_MISLED = ("enable_sort = off", "enable_bitmapscan = off", "enable_seqscan = off", "hnsw.max_scan_tuples = 1")


@pytest.mark.parametrize("compared", [meaning.MAX_COMPARED_NUMBERS, 0], ids=["one by one", "in the graph first"])
async def test_a_tenth_of_a_percent_of_all_passages_finds_its_nearest_ones(
    database: Database, pool: Pool, model: Synonyms, monkeypatch: pytest.MonkeyPatch, compared: int
) -> None:
    monkeypatch.setattr(meaning, "MAX_COMPARED_NUMBERS", compared)
    await _add(KnowledgeBase(pool), "large", d="A feline.")
    await _add(KnowledgeBase(pool), "small", near="A feline has bones.", far="The engine of a vehicle.")
    await PassageEmbedding(pool, model).embed_new_passages(NEVER)
    superuser = await asyncpg.connect(database.superuser_dsn)
    try:
        await superuser.execute("SET session_replication_role = replica")
        await superuser.execute(_LARGE_TENANT)
        name = await superuser.fetchval("SELECT current_database()")
        for setting in _MISLED:
            await superuser.execute(f'ALTER DATABASE "{name}" SET {setting}')
    finally:
        await superuser.close()
    async with open_pool(database.dsn(), application="test") as misled:
        assert await _found(KnowledgeBase(misled, embedder=model), "kitten", "small") == ["near.txt", "far.txt"]
