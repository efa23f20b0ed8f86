"""What the leader does for schedules: brings Temporal to what the rows say, and pauses those whose maker or session
is gone."""

import structlog
from temporalio.client import Client

from flotilla.postgres import Pool, tenant_transaction
from flotilla.schedules import ScheduleRefused, TemporalSchedules

SCHEDULE_BATCH_SIZE = 50
_SELECT_UNSYNCED_SCHEDULES = "SELECT * FROM flotilla.unsynced_schedules($1)"
_SELECT_ORPHANED_SCHEDULES = "SELECT * FROM flotilla.orphaned_schedules($1)"
# What was refused may have been changed since.
_PAUSE_SCHEDULE = """
UPDATE flotilla.schedules SET paused = true, note = $3, generation = generation + 1, updated_at = now()
WHERE tenant_id = $1 AND schedule_id = $2 AND NOT paused AND ($4::bigint IS NULL OR generation = $4)
"""
log = structlog.get_logger(__name__)


class ScheduleSyncDuty:
    """One of the leader's."""

    def __init__(self, pool: Pool, client: Client, task_queue: str) -> None:
        self._pool = pool
        self._schedules = TemporalSchedules(pool, client, task_queue)

    async def run_round(self) -> None:
        """One round."""
        for row in await self._pool.fetch(_SELECT_ORPHANED_SCHEDULES, SCHEDULE_BATCH_SIZE):
            await self._pause_schedule(row["tenant_id"], row["schedule_id"], row["why"])
        for row in await self._pool.fetch(_SELECT_UNSYNCED_SCHEDULES, SCHEDULE_BATCH_SIZE):
            try:
                await self._schedules.sync(row["tenant_id"], row["schedule_id"])
            except ScheduleRefused as refused:
                await self._pause_schedule(row["tenant_id"], row["schedule_id"], str(refused)[:200], refused.generation)

    async def _pause_schedule(self, tenant_id: str, schedule_id: str, why: str, generation: int | None = None) -> None:
        async with tenant_transaction(self._pool, tenant_id) as connection:
            await connection.execute(_PAUSE_SCHEDULE, tenant_id, schedule_id, why, generation)
        log.warning("schedule_paused", schedule_id=schedule_id, tenant=tenant_id, reason=why)
