"""Where the time of a delegated step goes, by the times that the servers themselves note: one machine, one clock."""

import statistics
from collections.abc import Sequence
from datetime import UTC, datetime
from itertools import pairwise

import asyncpg
from temporalio.api.enums.v1 import EventType
from temporalio.client import Client, WorkflowHistory

from flotilla.postgres import Pool

# A transaction's now() is its beginning, an entry's id the millisecond in which Redis took it.
_TIMES = """
SELECT d.opened_at, d.closed_at, t.entry_id, t.finished_at FROM flotilla.delegations AS d
JOIN flotilla.agent_tasks AS t USING (tenant_id, task_id) WHERE d.task_id = $1
"""
STRETCHES = (
    "Temporal: start, first workflow task, activity scheduled",
    "worker: the activity starts",
    "worker: row written, task signed and on the stream",
    "agent: woken, ticket checked, task looked up, work, answer written",
    "agent and bridge: commit on disk, reply on the stream, bridge woken",
    "bridge: reply checked, row closed, activity completed",
    "Temporal: last workflow task",
)


async def stretches_of(client: Client, pool: Pool, workflow_id: str) -> list[float]:
    """Milliseconds of each of `STRETCHES` in one workflow with one delegated step."""
    history = await client.get_workflow_handle(workflow_id).fetch_history()
    row = await pool.fetchrow(_TIMES, workflow_id)
    assert row is not None
    moments = [
        _at(history, EventType.EVENT_TYPE_WORKFLOW_EXECUTION_STARTED),
        _at(history, EventType.EVENT_TYPE_ACTIVITY_TASK_SCHEDULED),
        row["opened_at"],
        _of_entry(row),
        row["finished_at"],
        row["closed_at"],
        _at(history, EventType.EVENT_TYPE_ACTIVITY_TASK_COMPLETED),
        _at(history, EventType.EVENT_TYPE_WORKFLOW_EXECUTION_COMPLETED),
    ]
    return [(after - before).total_seconds() * 1000 for before, after in pairwise(moments)]


def report_stretches(taken: Sequence[Sequence[float]]) -> None:
    """Print the median of each stretch."""
    print(f"\n{'where a delegated step spends its time':<72}{'p50 ms':>8}")
    for name, values in zip(STRETCHES, zip(*taken, strict=True), strict=True):
        print(f"{name:<72}{statistics.median(values):>8.1f}")


def _at(history: WorkflowHistory, kind: "EventType.ValueType") -> datetime:
    event = next(event for event in history.events if event.event_type == kind)
    return event.event_time.ToDatetime(UTC)


def _of_entry(row: asyncpg.Record) -> datetime:
    return datetime.fromtimestamp(int(row["entry_id"].partition("-")[0]) / 1000, UTC)
