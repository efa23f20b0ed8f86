"""Indexes documents again whose entry is not what today's analysis makes of them.

After an upgrade these are all of them; while two versions serve side by side, those that the older one wrote. A
document is exchanged in one transaction: until then a search finds it by its old entry, which is also what a process
that is killed in the middle leaves.
"""

import asyncio

import asyncpg
import structlog

from flotilla.knowledge import indexing
from flotilla.knowledge.analysis import VERSION
from flotilla.knowledge.documents import UnstoredPassage
from flotilla.knowledge.recognition import detect_language
from flotilla.postgres import AWAY, Connection, Pool, tenant_transaction
from flotilla.runtime.stopping import sleep_or_stop

LOOK_EVERY_S = 60.0
_SELECT_TENANTS_TO_INDEX = "SELECT flotilla.tenants_to_index($1)"
_SELECT_NEXT_DOCUMENTS = """
SELECT d.document_id, d.title, d.body, d.content_hash FROM flotilla.documents AS d
LEFT JOIN flotilla.indexed_documents AS i USING (tenant_id, document_id)
WHERE d.tenant_id = $1
  AND (i.document_id IS NULL OR i.content_hash <> d.content_hash OR split_part(i.analysis, '/', 1) <> $2)
LIMIT 1
"""
_MARK_KNOWLEDGE_BASE_FINISHED = (
    "UPDATE flotilla.knowledge_bases SET indexed_by = $2, indexed_changes = changes WHERE tenant_id = $1"
)
_SELECT_PIECES_PASSAGES = """
SELECT heading, start_offset AS start, end_offset AS end, body AS text FROM flotilla.passages
WHERE tenant_id = $1 AND document_id = $2 ORDER BY ordinal
"""
log = structlog.get_logger(__name__)


class ReindexingJob:
    """Every replica may run one: the tenant's lock puts them one behind the other."""

    def __init__(self, pool: Pool, language: str) -> None:
        """`language` is that of documents which do not show theirs."""
        self._pool = pool
        self._language = language

    async def run(self, stop: asyncio.Event) -> None:
        """Look for such documents now and then, until `stop`."""
        while not stop.is_set():
            try:
                await self.reindex_outdated(stop)
            except (*AWAY, asyncpg.PostgresError) as error:
                log.warning("reindexing_interrupted", error=str(error))
            await sleep_or_stop(stop, LOOK_EVERY_S)

    async def reindex_outdated(self, stop: asyncio.Event) -> int:
        """Index again what needs it, and return how many documents that were."""
        done = 0
        for (tenant_id,) in await self._pool.fetch(_SELECT_TENANTS_TO_INDEX, VERSION):
            while not stop.is_set() and await self._one(tenant_id):
                done += 1
        if done:
            log.info("documents_indexed_again", documents=done)
        return done

    async def _one(self, tenant_id: str) -> bool:
        async with tenant_transaction(self._pool, tenant_id) as connection:
            await indexing.lock(connection, tenant_id)
            row = await connection.fetchrow(_SELECT_NEXT_DOCUMENTS, tenant_id, VERSION)
            if row is None:
                await connection.execute(_MARK_KNOWLEDGE_BASE_FINISHED, tenant_id, VERSION)
                return False
            entry = await asyncio.to_thread(self._entry, row, await _pieces(connection, tenant_id, row["document_id"]))
            await indexing.remove_from_index(connection, tenant_id, row["document_id"])
            await indexing.index_document(connection, tenant_id, row["document_id"], entry)
            return True

    def _entry(self, row: asyncpg.Record, pieces: list[UnstoredPassage]) -> indexing.DocumentIndexEntry:
        language = detect_language(row["body"], self._language)
        return indexing.build_index_entry(row["title"], pieces, language, row["content_hash"])


async def _pieces(connection: Connection, tenant_id: str, document_id: str) -> list[UnstoredPassage]:
    return [UnstoredPassage(**row) for row in await connection.fetch(_SELECT_PIECES_PASSAGES, tenant_id, document_id)]
