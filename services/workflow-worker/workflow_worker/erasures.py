"""What follows a confirmed erasure: each session records it, and once nothing of the person is open it is finished.

The key is destroyed when this begins. What is open ends by `erased_work`. Every step is a transaction or can be
repeated, so it ends however often the worker is killed in between.
"""

import asyncpg
import structlog

from flotilla.contracts.event_builders import run_finished_event, state_change
from flotilla.outbox import append
from flotilla.postgres import Connection, Pool, tenant_transaction
from flotilla.telemetry import metrics
from workflow_worker.notices import queue_run_notice

SESSION_ERASED_CHANGE = "subject_erased"
"""The `change` that each session of the person records."""
ERASURE_BATCH_SIZE = 200
SOURCE = "/workflow-worker"
_SELECT_UNFINISHED_ERASURES = "SELECT * FROM flotilla.unfinished_erasures($1)"
_LOCK_ERASED_SESSION = """
SELECT event_seq IS NULL FROM flotilla.erasure_sessions
WHERE tenant_id = $1 AND erasure_id = $2 AND session_id = $3 FOR UPDATE
"""
_MARK_ERASURE_RECORDED = """
UPDATE flotilla.erasure_sessions SET event_seq = $4 WHERE tenant_id = $1 AND erasure_id = $2 AND session_id = $3
"""
_CANCEL_QUEUED_RUNS = """
UPDATE flotilla.runs SET status = 'cancelled', finished_at = now()
WHERE tenant_id = $1 AND session_id = $2 AND status = 'queued' RETURNING run_id
"""
# What the session's workflows have not ended yet (`erased_work`).
_SELECT_HAS_OPEN_WORK = """
SELECT EXISTS (SELECT FROM flotilla.runs WHERE tenant_id = $1 AND session_id = $2
               AND status IN ('pending', 'running', 'interrupted'))
    OR EXISTS (SELECT FROM flotilla.actions WHERE tenant_id = $1 AND session_id = $2 AND finished_at IS NULL)
    OR EXISTS (SELECT FROM flotilla.orders WHERE tenant_id = $1 AND session_id = $2 AND finished_at IS NULL)
    OR EXISTS (SELECT FROM flotilla.pipelines WHERE tenant_id = $1 AND session_id = $2 AND finished_at IS NULL)
"""
_MARK_SESSION_ERASED = """
UPDATE flotilla.erasure_sessions SET done_at = now() WHERE tenant_id = $1 AND erasure_id = $2 AND session_id = $3
"""
_FINISH_ERASURE = """
UPDATE flotilla.erasures AS e SET finished_at = now() WHERE e.tenant_id = $1 AND e.erasure_id = $2
    AND NOT EXISTS (SELECT FROM flotilla.erasure_sessions AS s
                    WHERE s.tenant_id = $1 AND s.erasure_id = $2 AND s.done_at IS NULL)
    -- Their rows are there until Temporal's schedules are gone.
    AND NOT EXISTS (SELECT FROM flotilla.schedules AS s WHERE s.tenant_id = $1 AND s.deleted_at IS NOT NULL
                    AND flotilla_ops.person_of(s.owner, s.user_id) = e.person)
RETURNING 1
"""
log = structlog.get_logger(__name__)


class ErasureDuty:
    """Carries confirmed erasures on to their end."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def run_once(self) -> None:
        """One round: up to 200 sessions."""
        rows = await self._pool.fetch(_SELECT_UNFINISHED_ERASURES, ERASURE_BATCH_SIZE)
        for row in rows:
            if row["session_id"] is not None:
                await self._erase_session_logging_errors(row)
        for tenant_id, erasure_id in {(row["tenant_id"], row["erasure_id"]) for row in rows}:
            await self._finish_erasure(tenant_id, erasure_id)

    async def _erase_session_logging_errors(self, row: asyncpg.Record) -> None:
        """What fails in one session keeps none of the others waiting: it is tried again in the next round."""
        try:
            await self._erase_session(row)
        except Exception:
            log.exception("erasure_postponed", session_id=row["session_id"], erasure_id=row["erasure_id"])

    async def _erase_session(self, row: asyncpg.Record) -> None:
        tenant_id, erasure_id, session_id = row["tenant_id"], row["erasure_id"], row["session_id"]
        async with tenant_transaction(self._pool, tenant_id) as connection:
            if await connection.fetchval(_LOCK_ERASED_SESSION, tenant_id, erasure_id, session_id):
                await _record_erasure_in_session(connection, tenant_id, erasure_id, session_id)
            if not await connection.fetchval(_SELECT_HAS_OPEN_WORK, tenant_id, session_id):
                await connection.execute(_MARK_SESSION_ERASED, tenant_id, erasure_id, session_id)

    async def _finish_erasure(self, tenant_id: str, erasure_id: str) -> None:
        async with tenant_transaction(self._pool, tenant_id) as connection:
            finished = await connection.fetchval(_FINISH_ERASURE, tenant_id, erasure_id)
        if finished:
            log.info("erasure_finished", tenant=tenant_id, erasure_id=erasure_id)


async def _record_erasure_in_session(connection: Connection, tenant_id: str, erasure_id: str, session_id: str) -> None:
    """End the session's queued runs, and record the erasure."""
    events = [state_change(SESSION_ERASED_CHANGE, {"erasure_id": erasure_id}, SOURCE)]
    for run in await connection.fetch(_CANCEL_QUEUED_RUNS, tenant_id, session_id):
        events.append(run_finished_event(run["run_id"], "cancelled", SOURCE))
        await queue_run_notice(connection, tenant_id, run["run_id"], "run.finished")
        metrics.RUNS.labels("cancelled").inc()
    appended = await append(connection, tenant_id, session_id, events)
    await connection.execute(_MARK_ERASURE_RECORDED, tenant_id, erasure_id, session_id, appended.first_seq)
