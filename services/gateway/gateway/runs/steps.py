"""What was done for a run: from Temporal's history its own steps, from the database delegations and model calls."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import asyncpg
import structlog
from temporalio.api.enums.v1 import EventType
from temporalio.api.history.v1 import HistoryEvent
from temporalio.service import RPCError

from flotilla.contracts.errors import RetryLater
from flotilla.contracts.tasks import APPROVAL_REQUIRED
from flotilla.encryption.tables import ACTIONS, AGENT_TASKS, RUNS
from flotilla.postgres import open_rows, tenant_transaction
from gateway.schemas.runs import Run, RunSteps, Step
from gateway.services import GatewayServices
from gateway.temporal import RPC_TIMEOUT

log = structlog.get_logger(__name__)
_SELECT_AGENT_TASKS = """
SELECT task_id, session_id, agent, status, attempt, failure, created_at, finished_at, duration_ms
FROM flotilla.agent_tasks
WHERE tenant_id = $1 AND run_id = $2
"""
_SELECT_TRACE_RUNS = "SELECT traceparent FROM flotilla.runs WHERE tenant_id = $1 AND run_id = $2"
_SELECT_LLM_CALLS = """
SELECT task_id, agent, model, input_tokens, output_tokens, duration_ms, created_at,
    row_number() OVER (PARTITION BY task_id ORDER BY created_at) - 1 AS n
FROM flotilla.llm_calls
WHERE tenant_id = $1 AND run_id = $2
"""
# The governed actions that the run's workflow asked for itself; those of agents belong to their tasks.
_SELECT_ACTIONS = """
SELECT action_id, session_id, status, error, created_at, finished_at FROM flotilla.actions
WHERE tenant_id = $1 AND request ->> 'run_id' = $2 AND request ->> 'run_id' <> ''
  AND coalesce(request ->> 'task_id', '') = ''
"""
# Questions to people, and runs that the run started.
_SELECT_OTHERS_QUESTIONS = """
SELECT 'question' AS kind, question_id AS id, session_id, status, NULL::jsonb AS error, created_at,
    closed_at AS finished_at
FROM flotilla.questions WHERE tenant_id = $1 AND run_id = $2
UNION ALL
SELECT 'run', run_id, session_id, status, error, created_at, finished_at FROM flotilla.runs
WHERE tenant_id = $1 AND parent_run_id = $2
"""
_NAMED_BY_ID = replace(RUNS, key="id")


async def list_steps(services: GatewayServices, tenant_id: str, run: Run) -> RunSteps:
    """All steps, in the order in which they began."""
    async with tenant_transaction(services.pool, tenant_id) as connection:
        tasks = await open_rows(
            connection, tenant_id, AGENT_TASKS, await connection.fetch(_SELECT_AGENT_TASKS, tenant_id, run.run_id)
        )
        traceparent = await connection.fetchval(_SELECT_TRACE_RUNS, tenant_id, run.run_id)
        calls = await connection.fetch(_SELECT_LLM_CALLS, tenant_id, run.run_id)
        actions = await open_rows(
            connection, tenant_id, ACTIONS, await connection.fetch(_SELECT_ACTIONS, tenant_id, run.run_id)
        )
        others = await open_rows(
            connection, tenant_id, _NAMED_BY_ID, await connection.fetch(_SELECT_OTHERS_QUESTIONS, tenant_id, run.run_id)
        )
    steps = [*(_delegation(row, run.run_id) for row in tasks), *(_llm_call(row) for row in calls)]
    steps += [_action(row, run.run_id) for row in actions]
    steps += [_other(row, run.run_id) for row in others]
    history = await _history(services, run.workflow_id)
    steps += _workflow_steps(history or (), await _reasons(services, history or ()))
    steps.sort(key=lambda step: step.started_at or datetime.max.replace(tzinfo=UTC))
    return RunSteps(
        steps=steps,
        trace_id=traceparent.split("-")[1] if traceparent else None,
        workflow_history="unavailable" if history is None else "complete",
    )


def _status(status: str, failure: dict[str, Any] | None) -> str:
    waits = failure is not None and failure.get("type") == APPROVAL_REQUIRED
    return "waiting_for_approval" if waits else status


def _delegation(row: Mapping[str, Any], run_id: str) -> Step:
    failure = json.loads(row["failure"]) if row["failure"] else None
    return Step(
        kind="delegation",
        step=row["task_id"].removeprefix(f"{run_id}."),
        status=_status(row["status"], failure),
        attempt=row["attempt"],
        agent=row["agent"],
        task_id=row["task_id"],
        error=failure,
        started_at=row["created_at"],
        finished_at=row["finished_at"],
        duration_ms=row["duration_ms"],
    )


def _llm_call(row: asyncpg.Record) -> Step:
    return Step(
        kind="llm_call",
        step=f"call {row['n']}",
        status="done",
        attempt=1,
        agent=row["agent"],
        task_id=row["task_id"],
        model=row["model"],
        input_tokens=row["input_tokens"],
        output_tokens=row["output_tokens"],
        finished_at=row["created_at"],
        duration_ms=row["duration_ms"],
    )


def _action(row: Mapping[str, Any], run_id: str) -> Step:
    started, finished = row["created_at"], row["finished_at"]
    return Step(
        kind="action",
        step=row["action_id"].removeprefix(f"{run_id}."),
        status="waiting_for_approval" if row["status"] == "awaiting_approval" else row["status"],
        attempt=1,
        error=json.loads(row["error"]) if row["error"] else None,
        started_at=started,
        finished_at=finished,
        duration_ms=(finished - started).total_seconds() * 1000 if finished else None,
    )


def _other(row: Mapping[str, Any], run_id: str) -> Step:
    started, finished = row["created_at"], row["finished_at"]
    return Step(
        kind=row["kind"],
        step=row["id"].removeprefix(f"{run_id}."),
        status=row["status"],
        attempt=1,
        error=json.loads(row["error"]) if row["error"] else None,
        started_at=started,
        finished_at=finished,
        duration_ms=(finished - started).total_seconds() * 1000 if finished else None,
    )


async def _history(services: GatewayServices, workflow_id: str) -> list[HistoryEvent] | None:
    try:
        handle = await services.temporal.workflow_handle(workflow_id)
        pages = handle.fetch_history_events(rpc_timeout=RPC_TIMEOUT)
        return [event async for event in pages]
    except (RetryLater, RPCError) as error:
        log.info("history_not_read", workflow_id=workflow_id, error=str(error))
        return None


async def _reasons(services: GatewayServices, events: Iterable[HistoryEvent]) -> dict[int, str]:
    """Why activities failed, by the number of the event."""
    failures = {
        event.event_id: getattr(event, _ENDS[event.event_type][0]).failure
        for event in events
        if event.event_type in _FAILED
    }
    return {number: await services.temporal.failure_message(failure) for number, failure in failures.items()}


def _workflow_steps(events: Iterable[HistoryEvent], reasons: Mapping[int, str]) -> list[Step]:
    """Activities, from their scheduling to their end."""
    steps: dict[int, Step] = {}
    for event in events:
        if event.event_type == EventType.EVENT_TYPE_ACTIVITY_TASK_SCHEDULED:
            steps[event.event_id] = _scheduled(event)
        elif event.event_type in _ENDS:
            name, status = _ENDS[event.event_type]
            attributes = getattr(event, name)
            step = steps[attributes.scheduled_event_id]
            steps[attributes.scheduled_event_id] = step.model_copy(
                update=_ended(event, status, reasons.get(event.event_id), step)
            )
        elif event.event_type == EventType.EVENT_TYPE_ACTIVITY_TASK_STARTED:
            attributes = event.activity_task_started_event_attributes
            steps[attributes.scheduled_event_id].attempt = attributes.attempt
    return list(steps.values())


_ENDS = {
    EventType.EVENT_TYPE_ACTIVITY_TASK_COMPLETED: ("activity_task_completed_event_attributes", "done"),
    EventType.EVENT_TYPE_ACTIVITY_TASK_FAILED: ("activity_task_failed_event_attributes", "failed"),
    EventType.EVENT_TYPE_ACTIVITY_TASK_TIMED_OUT: ("activity_task_timed_out_event_attributes", "timeout"),
    EventType.EVENT_TYPE_ACTIVITY_TASK_CANCELED: ("activity_task_canceled_event_attributes", "cancelled"),
}
_FAILED = (EventType.EVENT_TYPE_ACTIVITY_TASK_FAILED, EventType.EVENT_TYPE_ACTIVITY_TASK_TIMED_OUT)


def _scheduled(event: HistoryEvent) -> Step:
    attributes = event.activity_task_scheduled_event_attributes
    return Step(
        kind="workflow_step",
        step=attributes.activity_type.name,
        status="running",
        attempt=1,
        task_id=attributes.activity_id,
        started_at=_time(event),
    )


def _ended(event: HistoryEvent, status: str, message: str | None, step: Step) -> dict[str, Any]:
    finished_at = _time(event)
    return {
        "status": status,
        "finished_at": finished_at,
        "duration_ms": (finished_at - (step.started_at or finished_at)).total_seconds() * 1000,
        "error": {"message": message} if message else None,
    }


def _time(event: HistoryEvent) -> datetime:
    return event.event_time.ToDatetime(tzinfo=UTC)
