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

EXPIRED = "session_expired"
"""The `change` that a session records when what it held is deleted."""
APPLIED = "privacy_retention_applied"
BATCH = 500
SOURCE = "/workflow-worker"
_WORK = "SELECT tenant_id, kind FROM flotilla.retention_work()"
_APPLY = "SELECT flotilla.apply_retention($1, $2, $3)"
_SESSIONS = "SELECT flotilla.sessions_to_expire($1, $2)"
_EXPIRE = "SELECT flotilla.expire_session($1, $2)"
log = structlog.get_logger(__name__)


class RetentionDuty:
    """Applies the tenants' retention policies."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def run_once(self) -> None:
        """One round: up to 500 rows of each kind and tenant. What fails for one keeps none of the others waiting."""
        for row in await self._pool.fetch(_WORK):
            try:
                await self._apply(row["tenant_id"], row["kind"])
            except Exception:
                log.exception("retention_postponed", tenant=row["tenant_id"], kind=row["kind"])

    async def _apply(self, tenant_id: str, kind: str) -> None:
        if kind == "sessions":
            await self._expire_sessions(tenant_id)
            return
        async with tenant_transaction(self._pool, tenant_id) as connection:
            if deleted := await connection.fetchval(_APPLY, tenant_id, kind, BATCH):
                await record_admin_changes(connection, tenant_id, SOURCE, _applied(kind, deleted))

    async def _expire_sessions(self, tenant_id: str) -> None:
        async with tenant_transaction(self._pool, tenant_id) as connection:
            sessions = [row[0] for row in await connection.fetch(_SESSIONS, tenant_id, BATCH)]
        expired = 0
        for session_id in sessions:
            try:
                expired += await self._expire(tenant_id, session_id)
            except Exception:
                log.exception("retention_postponed", tenant=tenant_id, session_id=session_id)
        if expired:
            async with tenant_transaction(self._pool, tenant_id) as connection:
                await record_admin_changes(connection, tenant_id, SOURCE, _applied("sessions", expired))

    async def _expire(self, tenant_id: str, session_id: str) -> bool:
        async with tenant_transaction(self._pool, tenant_id) as connection:
            if not await connection.fetchval(_EXPIRE, tenant_id, session_id):
                return False
            await append(connection, tenant_id, session_id, [state_change(EXPIRED, {}, SOURCE)])
        return True


def _applied(kind: str, deleted: int) -> tuple[str, JsonObject]:
    return APPLIED, {"kind": kind, "deleted": deleted}
