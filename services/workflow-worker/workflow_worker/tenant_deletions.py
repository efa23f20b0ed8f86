"""What follows the confirmed deletion of a tenant: its workflows end, its events reach Kafka, and then its rows go.

The keys are destroyed when this begins. Every step can be repeated, so it ends however often the worker is killed in
between.
"""

from datetime import timedelta

import asyncpg
import structlog
from temporalio.client import Client

from flotilla.audit.admin_log import record_admin_changes
from flotilla.postgres import Pool, tenant_transaction
from workflow_worker.temporal import ignoring_what_is_gone

SOURCE = "/workflow-worker"
SETTLED_AFTER = timedelta(seconds=60)
"""So long after the confirmation requests from before have ended, and rows are removed."""
BATCH_ROWS = 2_000
"""Of each table, in one transaction."""
BATCHES = 20
"""In one round."""
_PAGE = 100
_TO_DELETE = """
SELECT tenant_id, now() - deletion_confirmed_at AS age FROM flotilla_ops.tenants
WHERE deletion_confirmed_at IS NOT NULL AND deleted_at IS NULL ORDER BY deletion_confirmed_at
"""
_OPEN_WORK = """
SELECT workflow_id FROM (
    SELECT workflow_id FROM flotilla.runs
    WHERE tenant_id = $1 AND status IN ('pending', 'running', 'interrupted')
    UNION ALL SELECT workflow_id FROM flotilla.actions WHERE tenant_id = $1 AND finished_at IS NULL
    UNION ALL SELECT workflow_id FROM flotilla.orders WHERE tenant_id = $1 AND finished_at IS NULL
    UNION ALL SELECT workflow_id FROM flotilla.pipelines WHERE tenant_id = $1 AND finished_at IS NULL
) AS work WHERE workflow_id > $2 ORDER BY workflow_id LIMIT $3
"""
_SCHEDULES = "SELECT temporal_id FROM flotilla.schedules WHERE tenant_id = $1"
_WAITING_EVENTS = "SELECT count(*) FROM flotilla.event_outbox WHERE tenant_id = $1"
_PURGE = "SELECT flotilla.purge_tenant($1, $2)"
_FINISH = """
UPDATE flotilla_ops.tenants SET deleted_at = now() WHERE tenant_id = $1 AND deleted_at IS NULL
RETURNING deletion_asked_by, deletion_confirmed_by, deletion_reason
"""
log = structlog.get_logger(__name__)


class TenantDeletionDuty:
    """Carries confirmed deletions on to their end."""

    def __init__(
        self, pool: Pool, client: Client, operator_tenant: str, settled_after: timedelta = SETTLED_AFTER
    ) -> None:
        self._pool = pool
        self._client = client
        self._operator_tenant = operator_tenant
        self._settled_after = settled_after

    async def run_once(self) -> None:
        """One round."""
        for row in await self._pool.fetch(_TO_DELETE):
            try:
                await self._delete(row)
            except Exception:  # keeps none of the others waiting: it is tried again in the next round
                log.exception("tenant_deletion_postponed", tenant=row["tenant_id"])

    async def _delete(self, row: asyncpg.Record) -> None:
        tenant_id = row["tenant_id"]
        await self._end_work(tenant_id)
        if row["age"] < self._settled_after:
            return  # an event that is still appended would begin a removed session again at 1
        async with tenant_transaction(self._pool, tenant_id) as connection:
            waiting = await connection.fetchval(_WAITING_EVENTS, tenant_id)
        if waiting:
            log.info("tenant_deletion_waits", tenant=tenant_id, unpublished_events=waiting)
            return
        for _ in range(BATCHES):
            removed = await self._pool.fetchval(_PURGE, tenant_id, BATCH_ROWS)
            if removed is None:  # an event was appended meanwhile: it goes to Kafka first
                return
            if removed == 0:
                await self._finish(tenant_id)
                return

    async def _end_work(self, tenant_id: str) -> None:
        last = ""
        while page := await self._fetch(_OPEN_WORK, tenant_id, last, _PAGE):
            for (last,) in page:
                with ignoring_what_is_gone():
                    await self._client.get_workflow_handle(last).terminate(f"tenant {tenant_id} is deleted")
        for (schedule,) in await self._fetch(_SCHEDULES, tenant_id):
            with ignoring_what_is_gone():
                await self._client.get_schedule_handle(schedule).delete()

    async def _fetch(self, statement: str, tenant_id: str, *arguments: object) -> list[asyncpg.Record]:
        async with tenant_transaction(self._pool, tenant_id) as connection:
            return await connection.fetch(statement, tenant_id, *arguments)

    async def _finish(self, tenant_id: str) -> None:
        async with tenant_transaction(self._pool, self._operator_tenant) as connection:
            row = await connection.fetchrow(_FINISH, tenant_id)
            if row is not None:
                details = {"tenant": tenant_id, **dict(row)}
                await record_admin_changes(connection, self._operator_tenant, SOURCE, ("tenant_deleted", details))
        log.info("tenant_deleted", tenant=tenant_id)
