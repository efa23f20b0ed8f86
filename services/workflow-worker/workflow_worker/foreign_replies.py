"""Writes what a foreign agent's reply carries: its result and its session events, in one transaction.

An agent in another language needs only Redis; it marks nothing as persisted, and the bridge writes for it. The task's
own row says whose task it is: tenant, session and agent of the reply must agree with it. `delegate` does not wait for
that row to be on disk, so a crash of PostgreSQL may take it away; then the reply waits until `delegate` opened it anew.
"""

import asyncpg

from flotilla.contracts.envelope import from_builtins, to_builtins, to_json
from flotilla.contracts.errors import DeadLetter, Refused, RetryLater, Undecodable
from flotilla.contracts.event_rules import violation_of
from flotilla.contracts.json_types import JsonObject
from flotilla.contracts.session_events import (
    DATA_OF_KIND,
    SESSION_EVENT_KINDS,
    AgentStateEvent,
    SessionEventKind,
    session_event_type,
)
from flotilla.contracts.tasks import AgentReply
from flotilla.outbox import append
from flotilla.postgres import AWAY, Connection, Pool, tenant_transaction

ROW_MAY_BE_LOST_S = 60.0
"""How long a reply waits for its task's row: `delegate` opens a lost one anew after 20 s of silence (SILENCE_TIMEOUT),
its back-off of up to 10 s and PostgreSQL's recovery."""
_KINDS: dict[str, SessionEventKind] = {kind: kind for kind in SESSION_EVENT_KINDS}

# The answer to a try, once; success is final.
_STORE = """
UPDATE flotilla.agent_tasks
SET status = $3, result = $4, failure = $5, finished_at = now(),
    duration_ms = extract(epoch FROM now() - created_at) * 1000
WHERE tenant_id = $1 AND task_id = $2 AND attempt = $6 AND status = 'queued'
"""
_KNOWN = "SELECT session_id, agent, status, attempt FROM flotilla.agent_tasks WHERE tenant_id = $1 AND task_id = $2"
# A hop of a slip: the row of a task that an agent, not the worker, requested.
_OPEN_HOP = """
INSERT INTO flotilla.agent_tasks (tenant_id, task_id, agent, session_id, run_id, status, attempt)
SELECT tenant_id, $2, $3, session_id, run_id, 'queued', $4 FROM flotilla.agent_tasks
WHERE tenant_id = $1 AND task_id = $5
ON CONFLICT (tenant_id, task_id) DO UPDATE
    SET status = 'queued', attempt = EXCLUDED.attempt, failure = NULL, finished_at = NULL
    WHERE agent_tasks.status <> 'done' AND agent_tasks.attempt < EXCLUDED.attempt
"""
_ADD_ACTION = """
INSERT INTO flotilla.agent_actions (tenant_id, agent_id, session_id, task_id, action_type, payload)
VALUES ($1, $2, $3, $4, $5, $6)
"""


async def persist(pool: Pool, reply: AgentReply, age_s: float) -> None:
    """Stores the reply's result or failure and its events, once however often the reply comes.

    Raises:
        DeadLetter: the task belongs to another session or agent, an event is not one of ours, or the task is unknown
            to a reply that was sent over 60 s ago.
        RetryLater: PostgreSQL is away, or the task is not known (yet) to a younger reply.
    """
    events = [_session_event(reply, event) for event in reply.events]
    try:
        async with tenant_transaction(pool, reply.tenant_id) as connection:
            await _check_owner(connection, reply, age_s)
            if await _store(connection, reply):
                await _record(connection, reply, events)
    except (Refused, asyncpg.DataError) as error:
        raise DeadLetter(f"reply to task {reply.task_id}: {error}") from error
    except (*AWAY, TimeoutError) as error:
        raise RetryLater(f"PostgreSQL does not answer: {error}") from error


async def _check_owner(connection: Connection, reply: AgentReply, age_s: float) -> None:
    root, _, hop = reply.task_id.partition("~")
    if hop:
        await connection.execute(_OPEN_HOP, reply.tenant_id, reply.task_id, reply.agent, reply.attempt, root)
    row = await connection.fetchrow(_KNOWN, reply.tenant_id, reply.task_id)
    if row is None or (row["status"] != "done" and row["attempt"] < reply.attempt):
        why = f"reply to task {reply.task_id}: no such task of tenant {reply.tenant_id}, or no try {reply.attempt}"
        raise RetryLater(why) if age_s < ROW_MAY_BE_LOST_S else DeadLetter(why)
    if (row["session_id"], row["agent"]) != (reply.session_id, reply.agent):
        raise DeadLetter(f"reply to task {reply.task_id}: session or agent is not the task's")


async def _store(connection: Connection, reply: AgentReply) -> bool:
    status: str = await connection.execute(
        _STORE,
        reply.tenant_id,
        reply.task_id,
        reply.status,
        to_json(reply.result).decode() if reply.result is not None else None,
        to_json(reply.failure).decode() if reply.failure is not None else None,
        reply.attempt,
    )
    return status == "UPDATE 1"


async def _record(connection: Connection, reply: AgentReply, events: list[AgentStateEvent]) -> None:
    payload = to_json({"status": reply.status}).decode()
    await connection.execute(
        _ADD_ACTION, reply.tenant_id, reply.agent, reply.session_id, reply.task_id, "task", payload
    )
    if events:
        await append(connection, reply.tenant_id, reply.session_id, events)


def _session_event(reply: AgentReply, event: JsonObject) -> AgentStateEvent:
    try:
        kind = _KINDS[str(event.get("kind"))]
        data = from_builtins(event.get("data"), DATA_OF_KIND[kind])
    except (KeyError, Undecodable) as error:
        raise DeadLetter(f"reply to task {reply.task_id}, event {event.get('kind')!r}: {error}") from error
    if problem := violation_of(f"/agents/{reply.agent}", session_event_type(kind), to_builtins(data)):
        raise DeadLetter(f"reply to task {reply.task_id}: {problem}")
    return AgentStateEvent(
        kind=kind,
        data=to_builtins(data),
        source=f"/agents/{reply.agent}",
        run_id=reply.run_id,
        task_id=reply.task_id,
    )
