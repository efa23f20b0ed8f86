"""Removes documents that a tenant's retention policy keeps no longer, and attachments of sessions that expired."""

import asyncio
from functools import partial

import asyncpg
import structlog

from flotilla.audit import admin_log
from flotilla.contracts.errors import Conflict, FlotillaError, NotFound
from flotilla.knowledge import KnowledgeBase
from flotilla.knowledge.documents import DocumentChange
from flotilla.postgres import AWAY, Connection, Pool
from flotilla.runtime.stopping import sleep_or_stop
from gateway.names import SOURCE

ROUND_S = 60.0
AT_MOST = 500
_IS_EXPIRED = "SELECT flotilla.document_is_expired($1, $2)"
_SELECT_EXPIRED_DOCUMENTS_TO_EXPIRE = "SELECT tenant_id, document_id FROM flotilla.documents_to_expire($1)"
log = structlog.get_logger(__name__)


class ExpiredDocumentsJob:
    """Removes them every minute, as who removes one by hand does. Every replica may run one."""

    def __init__(self, pool: Pool, knowledge: KnowledgeBase) -> None:
        self._pool = pool
        self._knowledge = knowledge

    async def run(self, stop: asyncio.Event) -> None:
        """Run until `stop`; what can't be removed now is left for the next round."""
        while not stop.is_set():
            await sleep_or_stop(stop, ROUND_S)
            try:
                await self.remove_expired(stop)
            except (*AWAY, asyncpg.PostgresError) as error:
                log.warning("expired_documents_skipped", error=str(error))

    async def remove_expired(self, stop: asyncio.Event | None = None) -> None:
        """One round: up to 500 documents of each kind."""
        for row in await self._pool.fetch(_SELECT_EXPIRED_DOCUMENTS_TO_EXPIRE, AT_MOST):
            if stop is not None and stop.is_set():
                return
            tenant_id, document_id = row["tenant_id"], row["document_id"]
            try:
                await self._knowledge.remove(
                    tenant_id,
                    document_id,
                    partial(_note, tenant_id),
                    partial(_check_is_expired, tenant_id, document_id),
                )
            except (NotFound, Conflict):
                continue  # another replica was faster; or a hold, or a new version
            except FlotillaError as error:
                log.warning("expired_documents_skipped", document_id=document_id, error=str(error))


async def _check_is_expired(tenant_id: str, document_id: str, connection: Connection) -> None:
    """Raises Conflict: it is to be kept, since a hold, a new version or another policy came first."""
    if not await connection.fetchval(_IS_EXPIRED, tenant_id, document_id):
        raise Conflict(f"document {document_id} is no longer over: it is kept")


async def _note(tenant_id: str, connection: Connection, change: DocumentChange) -> None:
    details = {"document_id": change.document_id, "sha256": change.sha256, "by": "retention"}
    await admin_log.record_admin_changes(connection, tenant_id, SOURCE, (change.change, details))
