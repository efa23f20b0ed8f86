"""Deletes what is over for longer than a tenant's policy says, kind by kind, and records what it deleted.

What is counted in one event is deleted in its transaction. A session's key is destroyed in the transaction that records
`session_expired` in it. So it ends however often the worker is killed, and nothing is recorded that did not happen.
"""

import structlog

from flotilla.audit.admin_log import record_admin_changes
from flotilla.contracts.event_builders import state_change
from flotilla.contracts.json_types import JsonObject
from flotilla.outbox import append
from flotilla.postgres import Pool, tenant_transaction

SESSION_EXPIRED_CHANGE = "session_expired"
"""The `change` that a session records when what it held is deleted."""
RETENTION_APPLIED_CHANGE = "privacy_retention_applied"
RETENTION_BATCH_SIZE = 500
SOURCE = "/workflow-worker"
_SELECT_RETENTION_WORK = "SELECT tenant_id, kind FROM flotilla.retention_work()"
_APPLY_RETENTION = "SELECT flotilla.apply_retention($1, $2, $3)"
_SELECT_SESSIONS_TO_EXPIRE = "SELECT flotilla.sessions_to_expire($1, $2)"
_EXPIRE_SESSION = "SELECT flotilla.expire_session($1, $2)"
log = structlog.get_logger(__name__)


class RetentionDuty:
    """Applies the tenants' retention policies."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def run_once(self) -> None:
        """One round: up to 500 rows of each kind and tenant. What fails for one keeps none of the others waiting."""
        for row in await self._pool.fetch(_SELECT_RETENTION_WORK):
            try:
                await self._apply_retention_to_kind(row["tenant_id"], row["kind"])
            except Exception:
                log.exception("retention_postponed", tenant=row["tenant_id"], kind=row["kind"])

    async def _apply_retention_to_kind(self, tenant_id: str, kind: str) -> None:
        if kind == "sessions":
            await self._expire_sessions(tenant_id)
            return
        async with tenant_transaction(self._pool, tenant_id) as connection:
            if deleted := await connection.fetchval(_APPLY_RETENTION, tenant_id, kind, RETENTION_BATCH_SIZE):
                await record_admin_changes(connection, tenant_id, SOURCE, _retention_applied_change(kind, deleted))

    async def _expire_sessions(self, tenant_id: str) -> None:
        async with tenant_transaction(self._pool, tenant_id) as connection:
            sessions = [
                row[0] for row in await connection.fetch(_SELECT_SESSIONS_TO_EXPIRE, tenant_id, RETENTION_BATCH_SIZE)
            ]
        expired = 0
        for session_id in sessions:
            try:
                expired += await self._expire_session(tenant_id, session_id)
            except Exception:
                log.exception("retention_postponed", tenant=tenant_id, session_id=session_id)
        if expired:
            async with tenant_transaction(self._pool, tenant_id) as connection:
                await record_admin_changes(
                    connection, tenant_id, SOURCE, _retention_applied_change("sessions", expired)
                )

    async def _expire_session(self, tenant_id: str, session_id: str) -> bool:
        async with tenant_transaction(self._pool, tenant_id) as connection:
            if not await connection.fetchval(_EXPIRE_SESSION, tenant_id, session_id):
                return False
            await append(connection, tenant_id, session_id, [state_change(SESSION_EXPIRED_CHANGE, {}, SOURCE)])
        return True


def _retention_applied_change(kind: str, deleted: int) -> tuple[str, JsonObject]:
    return RETENTION_APPLIED_CHANGE, {"kind": kind, "deleted": deleted}
