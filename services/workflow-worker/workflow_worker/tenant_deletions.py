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
from workflow_worker.temporal import ignore_missing_workflow

SOURCE = "/workflow-worker"
REQUESTS_SETTLE_TIME = timedelta(seconds=60)
"""So long after the confirmation requests from before have ended, and rows are removed."""
PURGE_BATCH_ROWS = 2_000
"""Of each table, in one transaction."""
PURGE_BATCHES_PER_ROUND = 20
"""In one round."""
_PAGE_SIZE = 100
_SELECT_TENANTS_TO_DELETE = """
SELECT tenant_id, now() - deletion_confirmed_at AS age FROM flotilla_ops.tenants
WHERE deletion_confirmed_at IS NOT NULL AND deleted_at IS NULL ORDER BY deletion_confirmed_at
"""
_SELECT_OPEN_WORKFLOWS = """
SELECT workflow_id FROM (
    SELECT workflow_id FROM flotilla.runs
    WHERE tenant_id = $1 AND status IN ('pending', 'running', 'interrupted')
    UNION ALL SELECT workflow_id FROM flotilla.actions WHERE tenant_id = $1 AND finished_at IS NULL
    UNION ALL SELECT workflow_id FROM flotilla.orders WHERE tenant_id = $1 AND finished_at IS NULL
    UNION ALL SELECT workflow_id FROM flotilla.pipelines WHERE tenant_id = $1 AND finished_at IS NULL
) AS work WHERE workflow_id > $2 ORDER BY workflow_id LIMIT $3
"""
_SELECT_SCHEDULES = "SELECT temporal_id FROM flotilla.schedules WHERE tenant_id = $1"
_COUNT_OUTBOX_EVENTS = "SELECT count(*) FROM flotilla.event_outbox WHERE tenant_id = $1"
_PURGE_TENANT = "SELECT flotilla.purge_tenant($1, $2)"
_MARK_TENANT_DELETED = """
UPDATE flotilla_ops.tenants SET deleted_at = now() WHERE tenant_id = $1 AND deleted_at IS NULL
RETURNING deletion_asked_by, deletion_confirmed_by, deletion_reason
"""
log = structlog.get_logger(__name__)


class TenantDeletionDuty:
    """Carries confirmed deletions on to their end."""

    def __init__(
        self, pool: Pool, client: Client, operator_tenant: str, settled_after: timedelta = REQUESTS_SETTLE_TIME
    ) -> None:
        self._pool = pool
        self._client = client
        self._operator_tenant = operator_tenant
        self._settled_after = settled_after

    async def run_once(self) -> None:
        """One round."""
        for row in await self._pool.fetch(_SELECT_TENANTS_TO_DELETE):
            try:
                await self._delete_tenant(row)
            except Exception:  # keeps none of the others waiting: it is tried again in the next round
                log.exception("tenant_deletion_postponed", tenant=row["tenant_id"])

    async def _delete_tenant(self, row: asyncpg.Record) -> None:
        tenant_id = row["tenant_id"]
        await self._end_open_workflows(tenant_id)
        if row["age"] < self._settled_after:
            return  # an event that is still appended would begin a removed session again at 1
        async with tenant_transaction(self._pool, tenant_id) as connection:
            waiting = await connection.fetchval(_COUNT_OUTBOX_EVENTS, tenant_id)
        if waiting:
            log.info("tenant_deletion_waits", tenant=tenant_id, unpublished_events=waiting)
            return
        for _ in range(PURGE_BATCHES_PER_ROUND):
            removed = await self._pool.fetchval(_PURGE_TENANT, tenant_id, PURGE_BATCH_ROWS)
            if removed is None:  # an event was appended meanwhile: it goes to Kafka first
                return
            if removed == 0:
                await self._finish_deletion(tenant_id)
                return

    async def _end_open_workflows(self, tenant_id: str) -> None:
        last = ""
        while page := await self._fetch_as_tenant(_SELECT_OPEN_WORKFLOWS, tenant_id, last, _PAGE_SIZE):
            for (last,) in page:
                with ignore_missing_workflow():
                    await self._client.get_workflow_handle(last).terminate(f"tenant {tenant_id} is deleted")
        for (schedule,) in await self._fetch_as_tenant(_SELECT_SCHEDULES, tenant_id):
            with ignore_missing_workflow():
                await self._client.get_schedule_handle(schedule).delete()

    async def _fetch_as_tenant(self, statement: str, tenant_id: str, *arguments: object) -> list[asyncpg.Record]:
        async with tenant_transaction(self._pool, tenant_id) as connection:
            return await connection.fetch(statement, tenant_id, *arguments)

    async def _finish_deletion(self, tenant_id: str) -> None:
        async with tenant_transaction(self._pool, self._operator_tenant) as connection:
            row = await connection.fetchrow(_MARK_TENANT_DELETED, tenant_id)
            if row is not None:
                details = {"tenant": tenant_id, **dict(row)}
                await record_admin_changes(connection, self._operator_tenant, SOURCE, ("tenant_deleted", details))
        log.info("tenant_deleted", tenant=tenant_id)
