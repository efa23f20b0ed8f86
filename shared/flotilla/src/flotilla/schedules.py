"""Brings Temporal's schedules to what the rows of `flotilla.schedules` say. Gateway and worker may do so at once."""

from dataclasses import dataclass, replace
from datetime import datetime, timedelta

import asyncpg
from temporalio.client import (
    Client,
    Schedule,
    ScheduleActionStartWorkflow,
    ScheduleAlreadyRunningError,
    ScheduleHandle,
    ScheduleIntervalSpec,
    ScheduleOverlapPolicy,
    SchedulePolicy,
    ScheduleSpec,
    ScheduleState,
    ScheduleUpdate,
)
from temporalio.service import RPCError, RPCStatusCode

from flotilla.contracts.envelope import from_json
from flotilla.contracts.errors import Invalid
from flotilla.contracts.names import QUESTION, RAG_WORKFLOW, run_workflow_id
from flotilla.contracts.requests import RAGRequest, WorkflowRequest
from flotilla.contracts.schedules import Overlap, When
from flotilla.postgres import Pool, tenant_transaction
from flotilla.temporal import TASK_TIMEOUT, is_permanent_error

RPC_TIMEOUT = timedelta(seconds=3)
SHOWN_STARTS = 5
_OVERLAP: dict[Overlap, ScheduleOverlapPolicy] = {
    "skip": ScheduleOverlapPolicy.SKIP,
    "buffer_one": ScheduleOverlapPolicy.BUFFER_ONE,
    "allow": ScheduleOverlapPolicy.ALLOW_ALL,
}
_SELECT_SCHEDULES = """
SELECT temporal_id, fires, request, workflow, paused OR flotilla_ops.is_suspended($1) AS paused, note, generation,
    deleted_at IS NOT NULL AS deleted
FROM flotilla.schedules WHERE tenant_id = $1 AND schedule_id = $2 AND synced < generation
"""
_MARK_SCHEDULES_SYNCED = """
UPDATE flotilla.schedules SET synced = greatest(synced, $3) WHERE tenant_id = $1 AND schedule_id = $2
"""
_DELETE_SCHEDULES = "DELETE FROM flotilla.schedules WHERE tenant_id = $1 AND schedule_id = $2 AND generation = $3"


class ScheduleRefused(Invalid):
    """Temporal does not take a schedule as it is in `generation`."""

    def __init__(self, message: str, generation: int) -> None:
        super().__init__(message)
        self.generation = generation


@dataclass(frozen=True, slots=True)
class TemporalSchedules:
    """Temporal's side of them; `task_queue` is where the built-in workflows' workers are."""

    pool: Pool
    client: Client
    task_queue: str

    async def sync(self, tenant_id: str, schedule_id: str) -> None:
        """Make Temporal have the newest change. Who brings an older one late sees that there is a newer one.

        Raises:
            ScheduleRefused: Temporal does not take it; another change may be the newest by now.
            RPCError: Temporal does not answer.
        """
        while (row := await self._unsynced(tenant_id, schedule_id)) is not None:
            try:
                await self._apply(row)
            except RPCError as error:
                if not is_permanent_error(error):
                    raise
                message = f"schedule {schedule_id}: Temporal does not take it: {error}"
                raise ScheduleRefused(message, row["generation"]) from error
            async with tenant_transaction(self.pool, tenant_id) as connection:
                await connection.execute(
                    _DELETE_SCHEDULES if row["deleted"] else _MARK_SCHEDULES_SYNCED,
                    tenant_id,
                    schedule_id,
                    row["generation"],
                )

    async def _unsynced(self, tenant_id: str, schedule_id: str) -> asyncpg.Record | None:
        async with tenant_transaction(self.pool, tenant_id) as connection:
            return await connection.fetchrow(_SELECT_SCHEDULES, tenant_id, schedule_id)

    async def _apply(self, row: asyncpg.Record) -> None:
        handle = self.handle(row["temporal_id"])
        try:
            if row["deleted"]:
                await handle.delete(rpc_timeout=RPC_TIMEOUT)
            else:
                wanted = ScheduleUpdate(self._schedule(row))
                await handle.update(lambda _: wanted, rpc_timeout=RPC_TIMEOUT)
        except RPCError as error:
            if error.status != RPCStatusCode.NOT_FOUND:
                raise
            if not row["deleted"]:
                await self._create(row)

    async def _create(self, row: asyncpg.Record) -> None:
        try:
            await self.client.create_schedule(row["temporal_id"], self._schedule(row), rpc_timeout=RPC_TIMEOUT)
        except ScheduleAlreadyRunningError:  # somebody else made it meanwhile
            await self._apply(row)

    def _schedule(self, row: asyncpg.Record) -> Schedule:
        when = from_json(row["fires"], When)
        return Schedule(
            action=self._action(row),
            spec=_spec(when),
            policy=SchedulePolicy(overlap=_OVERLAP[when.overlap], catchup_window=timedelta(seconds=when.catch_up_s)),
            state=ScheduleState(paused=row["paused"], note=row["note"]),
        )

    def _action(self, row: asyncpg.Record) -> ScheduleActionStartWorkflow:
        # Temporal adds the time of the start to the id, and the run's id is taken from it.
        workflow_id = run_workflow_id(row["temporal_id"])
        if row["workflow"] == QUESTION:
            question = from_json(row["request"], RAGRequest)
            return _start(RAG_WORKFLOW, question, workflow_id, self.task_queue)
        request = from_json(row["request"], WorkflowRequest)
        return _start(request.workflow, request, workflow_id, request.task_queue or self.task_queue)

    async def next_starts(self, temporal_id: str) -> list[datetime]:
        """Return the next five starts, as Temporal computes them.

        Raises:
            RPCError: Temporal does not answer, or does not have the schedule.
        """
        described = await self.handle(temporal_id).describe(rpc_timeout=RPC_TIMEOUT)
        return list(described.info.next_action_times[:SHOWN_STARTS])

    def handle(self, temporal_id: str) -> ScheduleHandle:
        """Return Temporal's handle of a schedule."""
        return self.client.get_schedule_handle(temporal_id)


def _start(workflow: str, request: object, workflow_id: str, queue: str) -> ScheduleActionStartWorkflow:
    return ScheduleActionStartWorkflow(workflow, request, id=workflow_id, task_queue=queue, task_timeout=TASK_TIMEOUT)


def _spec(when: When) -> ScheduleSpec:
    spec = ScheduleSpec(
        cron_expressions=when.cron,
        start_at=when.start_at,
        end_at=when.end_at,
        jitter=timedelta(seconds=when.jitter_s) or None,
        time_zone_name=when.time_zone,
    )
    if when.interval_s is None:
        return spec
    return replace(spec, intervals=[ScheduleIntervalSpec(every=timedelta(seconds=when.interval_s))])
