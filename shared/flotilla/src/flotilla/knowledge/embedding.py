"""Embeddings: passages that mean what a question asks, in whatever words.

A background job embeds what a model has not embedded yet; a search uses the model of its service once all passages of
the tenant were embedded by it, and ranks by words alone until then. No transaction waits for a model.
"""

import asyncio
from collections.abc import Mapping, Sequence
from typing import Protocol, runtime_checkable

import asyncpg
import structlog

from flotilla.contracts.errors import RetryLater
from flotilla.postgres import AWAY, Pool, tenant_snapshot, tenant_transaction
from flotilla.runtime.stopping import sleep_or_stop

LOOK_EVERY_S = 15.0
BATCH = 32
SEARCH_TIMEOUT_S = 2.0
"""How long a search waits for the question's embedding."""

_AVAILABLE = "SELECT to_regclass('flotilla.passage_embeddings') IS NOT NULL"
_SELECT_TENANTS_TO_EMBED = "SELECT flotilla.tenants_to_embed($1)"
_SELECT_CHANGES_KNOWLEDGE_BASES = "SELECT changes FROM flotilla.knowledge_bases WHERE tenant_id = $1"
_SELECT_MISSING_PASSAGES = """
SELECT p.passage_no, d.title, p.heading, p.body FROM flotilla.passages AS p
JOIN flotilla.documents AS d USING (tenant_id, document_id)
WHERE p.tenant_id = $1 AND p.passage_no > $2 AND NOT EXISTS (
    SELECT FROM flotilla.passage_embeddings AS e
    WHERE e.tenant_id = $1 AND e.passage_no = p.passage_no AND e.model = $3)
ORDER BY p.passage_no LIMIT $4
"""
# A passage that went meanwhile is left out; one that another replica has embedded is left alone.
_UPSERT_PASSAGE_EMBEDDINGS = """
INSERT INTO flotilla.passage_embeddings (tenant_id, passage_no, model, embedding)
SELECT $1, p.passage_no, $2, n.embedding::halfvec
FROM unnest($3::bigint[], $4::text[]) AS n (passage_no, embedding)
JOIN flotilla.passages AS p ON p.tenant_id = $1 AND p.passage_no = n.passage_no
ORDER BY p.passage_no FOR KEY SHARE OF p
ON CONFLICT DO NOTHING
"""
# What another index had finished does not count for this one: a process that is killed from here on leaves work to do.
_MARK_KNOWLEDGE_BASE_EMBEDDED_BY = """
UPDATE flotilla.knowledge_bases SET embedded_by = $2, embedded_changes = NULL
WHERE tenant_id = $1 AND embedded_by IS DISTINCT FROM $2
"""
_FORGET_OTHERS = """
DELETE FROM flotilla.passage_embeddings WHERE (tenant_id, passage_no, model) IN (
    SELECT tenant_id, passage_no, model FROM flotilla.passage_embeddings
    WHERE tenant_id = $1 AND model <> $2 LIMIT $3)
"""
_FORGOTTEN_AT_ONCE = 10_000
# A passage that came or went after these changes makes the tenant one with something to do again.
_MARK_KNOWLEDGE_BASE_FINISHED = (
    "UPDATE flotilla.knowledge_bases SET embedded_changes = $3 WHERE tenant_id = $1 AND embedded_by = $2"
)
log = structlog.get_logger(__name__)


class Embedder(Protocol):
    """A model that turns texts into vectors."""

    @property
    def name(self) -> str:
        """Name and version: vectors of different names are never compared."""

    async def embed(self, texts: Sequence[str]) -> list[list[float]]:
        """Return the vector of each text.

        Raises:
            RetryLater: the model does not answer.
        """


@runtime_checkable
class QuestionEmbedder(Embedder, Protocol):
    """One that reads a question otherwise than a passage."""

    @property
    def unrelated_cosine(self) -> float:
        """The cosine of texts that have nothing to do with each other: of some models it is far above 0."""

    async def embed_question(self, question: str) -> list[float]:
        """Return the vector that passages which answer are near to.

        Raises:
            RetryLater: the model does not answer.
        """


@runtime_checkable
class ClosableEmbedder(Embedder, Protocol):
    """One that holds connections."""

    async def close(self) -> None:
        """Release them."""


async def embed_question(embedder: Embedder, question: str) -> list[float]:
    """Return the vector that passages which answer are near to.

    Raises:
        RetryLater: the model does not answer.
    """
    if isinstance(embedder, QuestionEmbedder):
        return await embedder.embed_question(question)
    [vector] = await embedder.embed([question])
    return vector


def scaled_cosine(cosine: float, unrelated: float) -> float:
    """Return a cosine on the scale on which that of unrelated texts is 0, so that models can be compared."""
    return (cosine - unrelated) / (1 - unrelated)


def unrelated_cosine(embedder: Embedder) -> float:
    """Return the cosine of texts that have nothing to do with each other, as far as it is known."""
    return embedder.unrelated_cosine if isinstance(embedder, QuestionEmbedder) else 0.0


def as_halfvec(vector: Sequence[float]) -> str:
    """Return `vector` as pgvector reads it."""
    return f"[{','.join(f'{value:.5g}' for value in vector)}]"


class PassageEmbedding:
    """Embeds passages in the background, into PostgreSQL. Every replica may run one."""

    missing = _SELECT_MISSING_PASSAGES
    finish = _MARK_KNOWLEDGE_BASE_FINISHED

    def __init__(self, pool: Pool, embedder: Embedder) -> None:
        self._pool = pool
        self._embedder = embedder
        self.index = embedder.name
        """What searches use: vectors of different indexes are never compared."""

    async def run(self, stop: asyncio.Event) -> None:
        """Look for passages without an embedding now and then, until `stop`."""
        while not stop.is_set():
            try:
                await self.embed_new_passages(stop)
            except (*AWAY, asyncpg.PostgresError, RetryLater) as error:
                log.warning("embedding_interrupted", error=str(error))
            await sleep_or_stop(stop, LOOK_EVERY_S)

    async def embed_new_passages(self, stop: asyncio.Event) -> int:
        """Embed what this model has not embedded, and return how many passages that were."""
        done = 0
        for tenant_id in await self._tenants():
            done += await self._embed_tenant(tenant_id, stop)
        return done

    async def _embed_tenant(self, tenant_id: str, stop: asyncio.Event) -> int:
        async with tenant_snapshot(self._pool, tenant_id) as connection:
            changes = await connection.fetchval(_SELECT_CHANGES_KNOWLEDGE_BASES, tenant_id)
        await self._remove_gone(tenant_id)
        done, last = 0, 0
        while not stop.is_set():
            async with tenant_snapshot(self._pool, tenant_id) as connection:
                rows = await connection.fetch(self.missing, tenant_id, last, self.index, BATCH)
            if not rows:
                await self._serve(tenant_id, stop)
                if stop.is_set():
                    return done
                async with tenant_transaction(self._pool, tenant_id) as connection:
                    await connection.execute(self.finish, tenant_id, self.index, changes)
                return done
            vectors = await self._embedder.embed([f"{row['title']}\n{row['heading']}\n{row['body']}" for row in rows])
            numbers = [row["passage_no"] for row in rows]
            await self._put(tenant_id, dict(zip(numbers, vectors, strict=True)))
            done, last = done + len(rows), numbers[-1]
        return done

    async def _remove_gone(self, tenant_id: str) -> None:
        """Do nothing: in PostgreSQL a vector goes with its passage."""

    async def _tenants(self) -> list[str]:
        """Those with something to do."""
        if not await self._pool.fetchval(_AVAILABLE):
            raise RetryLater("PostgreSQL has no pgvector: install it, and run `python -m flotilla.install` again")
        return [row[0] for row in await self._pool.fetch(_SELECT_TENANTS_TO_EMBED, self.index)]

    async def _put(self, tenant_id: str, vectors: Mapping[int, Sequence[float]]) -> None:
        async with tenant_transaction(self._pool, tenant_id) as connection:
            packed = [as_halfvec(vector) for vector in vectors.values()]
            await connection.execute(_UPSERT_PASSAGE_EMBEDDINGS, tenant_id, self.index, list(vectors), packed)

    async def _serve(self, tenant_id: str, stop: asyncio.Event) -> None:
        """Let searches use this index, and drop the vectors of others in PostgreSQL, until `stop`."""
        async with tenant_transaction(self._pool, tenant_id) as connection:
            await connection.execute(_MARK_KNOWLEDGE_BASE_EMBEDDED_BY, tenant_id, self.index)
        if not await self._pool.fetchval(_AVAILABLE):
            return
        forgotten = ""
        while forgotten != "DELETE 0" and not stop.is_set():
            async with tenant_transaction(self._pool, tenant_id) as connection:
                forgotten = await connection.execute(_FORGET_OTHERS, tenant_id, self.index, _FORGOTTEN_AT_ONCE)
