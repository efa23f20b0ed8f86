"""Embeds passages into a store outside PostgreSQL, which knows of each vector there.

A vector is noted before it is stored and until it is removed, so whatever dies in between, the next round finds what to
do. A store that has lost vectors is filled again.
"""

import asyncio
from collections.abc import Mapping, Sequence

import structlog

from flotilla.knowledge.embedding import Embedder, PassageEmbedding
from flotilla.knowledge.vector_store import VectorStore
from flotilla.postgres import Pool, tenant_transaction

_SELECT_TENANTS_TO_STORE = "SELECT flotilla.tenants_to_store($1)"
_SELECT_VECTORS_STORED = "SELECT tenant_id, vectors FROM flotilla.vectors_stored($1)"
_SELECT_MISSING_PASSAGES = """
SELECT p.passage_no, d.title, p.heading, p.body FROM flotilla.passages AS p
JOIN flotilla.documents AS d USING (tenant_id, document_id)
WHERE p.tenant_id = $1 AND p.passage_no > $2 AND NOT EXISTS (
    SELECT FROM flotilla.outside_vectors AS v
    WHERE v.tenant_id = $1 AND v.model = $3 AND v.passage_no = p.passage_no AND v.stored)
ORDER BY p.passage_no LIMIT $4
"""
_INSERT_OUTSIDE_VECTORS = """
INSERT INTO flotilla.outside_vectors (tenant_id, model, passage_no) SELECT $1, $2, unnest($3::bigint[])
ON CONFLICT DO NOTHING
"""
# Noted again where another replica has just removed what was not there yet: the next round removes it.
_CONFIRM_OUTSIDE_VECTORS = """
INSERT INTO flotilla.outside_vectors (tenant_id, model, passage_no, stored) SELECT $1, $2, unnest($3::bigint[]), true
ON CONFLICT (tenant_id, model, passage_no) DO UPDATE SET stored = true
"""
# Whatever is under way: a process that is killed in it leaves something to do.
_MARK_KNOWLEDGE_BASE_BEGUN = """
UPDATE flotilla.knowledge_bases SET embedded_changes = NULL WHERE tenant_id = $1 AND embedded_changes IS NOT NULL
"""
# Not while another replica has a vector under way whose passage is gone.
_MARK_KNOWLEDGE_BASE_FINISHED = """
UPDATE flotilla.knowledge_bases SET embedded_changes = $3
WHERE tenant_id = $1 AND embedded_by = $2 AND NOT EXISTS (
    SELECT FROM flotilla.outside_vectors AS v
    WHERE v.tenant_id = $1 AND v.model = $2 AND NOT EXISTS (
        SELECT FROM flotilla.passages AS p WHERE p.tenant_id = $1 AND p.passage_no = v.passage_no))
"""
# Counted again: another replica may have removed some since.
_MARK_OUTSIDE_VECTORS_LOST = """
UPDATE flotilla.outside_vectors SET stored = false
WHERE tenant_id = $1 AND model = $2 AND stored AND $3 < (
    SELECT count(*) FROM flotilla.outside_vectors WHERE tenant_id = $1 AND model = $2 AND stored)
"""
# Before they are removed: a vector that is gone must not look like one that was lost.
_MARK_OUTSIDE_VECTORS_GONE = """
UPDATE flotilla.outside_vectors AS v SET stored = false
WHERE v.tenant_id = $1 AND v.model = $2 AND NOT EXISTS (
    SELECT FROM flotilla.passages AS p WHERE p.tenant_id = $1 AND p.passage_no = v.passage_no)
RETURNING v.passage_no
"""
_DELETE_OUTSIDE_VECTORS = (
    "DELETE FROM flotilla.outside_vectors WHERE tenant_id = $1 AND model = $2 AND passage_no = ANY ($3::bigint[])"
)
_SELECT_OTHERS_OUTSIDE_VECTORS = (
    "SELECT DISTINCT model FROM flotilla.outside_vectors WHERE tenant_id = $1 AND model <> $2"
)
_FORGET_ALL = "DELETE FROM flotilla.outside_vectors WHERE tenant_id = $1 AND model = $2"
log = structlog.get_logger(__name__)


def vector_index_name(store: VectorStore, embedder: Embedder) -> str:
    """Return the name of the index that a model's vectors in a store are."""
    return f"{embedder.name}@{store.name}"


class ExternalPassageEmbedding(PassageEmbedding):
    """As `PassageEmbedding`, with the vectors in a store."""

    missing = _SELECT_MISSING_PASSAGES
    finish = _MARK_KNOWLEDGE_BASE_FINISHED

    def __init__(self, pool: Pool, embedder: Embedder, store: VectorStore) -> None:
        super().__init__(pool, embedder)
        self.index = vector_index_name(store, embedder)
        self._store = store

    async def _tenants(self) -> list[str]:
        for tenant_id, vectors in await self._pool.fetch(_SELECT_VECTORS_STORED, self.index):
            found = await self._store.count_vectors(tenant_id, self.index)
            if found < vectors:
                async with tenant_transaction(self._pool, tenant_id) as connection:
                    lost = await connection.execute(_MARK_OUTSIDE_VECTORS_LOST, tenant_id, self.index, found)
                    await connection.execute(_MARK_KNOWLEDGE_BASE_BEGUN, tenant_id)
                if lost != "UPDATE 0":
                    log.warning("vectors_lost", tenant_id=tenant_id, index=self.index, noted=vectors, found=found)
        return [row[0] for row in await self._pool.fetch(_SELECT_TENANTS_TO_STORE, self.index)]

    async def _put(self, tenant_id: str, vectors: Mapping[int, Sequence[float]]) -> None:
        async with tenant_transaction(self._pool, tenant_id) as connection:
            await connection.execute(_INSERT_OUTSIDE_VECTORS, tenant_id, self.index, list(vectors))
            await connection.execute(_MARK_KNOWLEDGE_BASE_BEGUN, tenant_id)
        await self._store.put(tenant_id, self.index, vectors)
        async with tenant_transaction(self._pool, tenant_id) as connection:
            await connection.execute(_CONFIRM_OUTSIDE_VECTORS, tenant_id, self.index, list(vectors))
            await connection.execute(_MARK_KNOWLEDGE_BASE_BEGUN, tenant_id)

    async def _remove_gone(self, tenant_id: str) -> None:
        """Forget vectors whose passages are gone."""
        async with tenant_transaction(self._pool, tenant_id) as connection:
            gone = [row[0] for row in await connection.fetch(_MARK_OUTSIDE_VECTORS_GONE, tenant_id, self.index)]
        if gone:
            await self._store.remove_vectors(tenant_id, self.index, gone)
            async with tenant_transaction(self._pool, tenant_id) as connection:
                await connection.execute(_DELETE_OUTSIDE_VECTORS, tenant_id, self.index, gone)

    async def _serve(self, tenant_id: str, stop: asyncio.Event) -> None:
        await super()._serve(tenant_id, stop)
        async with tenant_transaction(self._pool, tenant_id) as connection:
            others = [row[0] for row in await connection.fetch(_SELECT_OTHERS_OUTSIDE_VECTORS, tenant_id, self.index)]
        for index in others:
            await self._store.remove_all_vectors(tenant_id, index)
            async with tenant_transaction(self._pool, tenant_id) as connection:
                await connection.execute(_FORGET_ALL, tenant_id, index)
