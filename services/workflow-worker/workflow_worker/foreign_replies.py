"""Writes what a foreign agent's reply carries: its result and its session events, in the bridge's transaction.

An agent in another language needs only Redis; it marks nothing as persisted, and the bridge writes for it.
"""

import structlog

from flotilla.contracts.envelope import from_builtins, to_builtins, to_json
from flotilla.contracts.errors import DeadLetter, Undecodable
from flotilla.contracts.event_rules import write_violation_of_data
from flotilla.contracts.json_types import JsonObject
from flotilla.contracts.session_events import (
    DATA_OF_KIND,
    SESSION_EVENT_KINDS,
    AgentStateEvent,
    SessionEventKind,
    session_event_type,
)
from flotilla.contracts.tasks import AgentReply
from flotilla.contracts.values import ESCAPED
from flotilla.encryption.tables import AGENT_TASKS
from flotilla.outbox import append
from flotilla.postgres import Connection, seal_columns
from flotilla.telemetry.metrics import REPLIES_REFUSED

log = structlog.get_logger(__name__)
_SESSION_EVENT_KINDS: dict[str, SessionEventKind] = {kind: kind for kind in SESSION_EVENT_KINDS}

# The answer to a try, once; success is final.
_STORE_TASK_ANSWER = """
UPDATE flotilla.agent_tasks
SET status = $3, result = $4, failure = $5, finished_at = now(),
    duration_ms = extract(epoch FROM now() - created_at) * 1000
WHERE tenant_id = $1 AND task_id = $2 AND attempt = $6 AND status = 'queued'
"""
_INSERT_AGENT_ACTION = """
INSERT INTO flotilla.agent_actions (tenant_id, agent_id, session_id, task_id, action_type, payload)
VALUES ($1, $2, $3, $4, $5, $6)
"""


async def store_foreign_reply(connection: Connection, agent: str, reply: AgentReply, *, run_id: str | None) -> None:
    """Store the reply's result or failure and its events, unless the task has its answer.

    Raises:
        DeadLetter: an event is not one of an agent's.
    """
    if reply.status not in ("done", "failed"):
        return
    events = [_session_event_of_reply(agent, reply, number, run_id) for number in range(len(reply.events))]
    if await _store_task_answer(connection, reply):
        await _record_reply_events(connection, agent, reply, events)


async def _store_task_answer(connection: Connection, reply: AgentReply) -> bool:
    stored = await seal_columns(
        connection,
        reply.tenant_id,
        reply.session_id,
        AGENT_TASKS,
        reply.task_id,
        result=to_json(reply.result).decode() if reply.result is not None else None,
        failure=to_json(reply.failure).decode() if reply.failure is not None else None,
    )
    status: str = await connection.execute(
        _STORE_TASK_ANSWER,
        reply.tenant_id,
        reply.task_id,
        reply.status,
        stored["result"],
        stored["failure"],
        reply.attempt,
    )
    return status == "UPDATE 1"


async def _record_reply_events(
    connection: Connection, agent: str, reply: AgentReply, events: list[AgentStateEvent]
) -> None:
    payload = to_json({"status": reply.status, **_escaped_member(_escaped_places_below("/result", reply))}).decode()
    await connection.execute(
        _INSERT_AGENT_ACTION, reply.tenant_id, agent, reply.session_id, reply.task_id, "task", payload
    )
    if events:
        await append(connection, reply.tenant_id, reply.session_id, events)


def _escaped_places_below(place: str, reply: AgentReply) -> list[str]:
    """Where in what the reply has at `place` text stands for what no store holds."""
    return [found.removeprefix(place) for found in reply.escaped if found.startswith(f"{place}/")]


def _escaped_member(places: list[str]) -> JsonObject:
    return {ESCAPED: [*places]} if places else {}


def _session_event_of_reply(agent: str, reply: AgentReply, number: int, run_id: str | None) -> AgentStateEvent:
    event = reply.events[number]
    try:
        kind = _SESSION_EVENT_KINDS[str(event.get("kind"))]
        data = from_builtins(event.get("data"), DATA_OF_KIND[kind])
    except (KeyError, Undecodable) as error:
        raise DeadLetter(
            f"reply to task {reply.task_id} is refused: its {event.get('kind')!r} event is not valid: {error}"
        ) from error
    source, wire_type = f"/agents/{agent}", session_event_type(kind)
    if problem := write_violation_of_data(source, wire_type, to_builtins(data), reply.session_id):
        REPLIES_REFUSED.labels(agent, "forbidden_event").inc()
        log.error("reply_refused", agent=agent, task_id=reply.task_id, reason="forbidden_event", error=problem)
        raise DeadLetter(f"reply to task {reply.task_id} is refused: {problem}")
    return AgentStateEvent(
        kind=kind,
        data={**to_builtins(data), **_escaped_member(_escaped_places_below(f"/events/{number}/data", reply))},
        source=source,
        run_id=run_id,
        task_id=reply.task_id,
    )
