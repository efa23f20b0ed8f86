"""The rows of `flotilla.delegations`: what was delegated to whom, written before it is published.

A row stands for one hop of a slip in one try. It holds who may answer, which activity waits, and the event to publish
with its ticket; nothing that a reply says takes their place.
"""

import secrets
from dataclasses import dataclass, replace
from datetime import datetime
from hashlib import sha256

import asyncpg

from flotilla.bus.entries import check_size
from flotilla.bus.tickets import SealedEvent, seal
from flotilla.config.signing import Signer
from flotilla.contracts.envelope import AgentEvent, from_json, to_builtins
from flotilla.contracts.names import task_stream
from flotilla.contracts.tasks import (
    MAX_INLINE_RESULT_BYTES,
    TASK_REQUESTED,
    AgentTask,
    ReplyAddress,
    hop_of,
    next_hop,
    next_hop_id,
    root_task_id,
)
from flotilla.postgres import Connection
from flotilla.telemetry import current_traceparent

SOURCE = "/workflow-worker"
SECRET_BYTES = 32

# The answers there are to a slip's hops.
_ANSWERS = """
SELECT task_id, status, attempt, entry_id, result, failure FROM flotilla.agent_tasks
WHERE tenant_id = $1 AND task_id = ANY($2)
"""
# Opens a hop for a try: the delegation, and the task's row, which keeps an answer that it has.
_OPEN = """
WITH opened AS (
    INSERT INTO flotilla.delegations AS d (
        tenant_id, task_id, attempt, root_task_id, hop, agent, slip, session_id, run_id, principal,
        workflow_id, workflow_run_id, activity_id, deadline, secret_hash, event, ticket
    ) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17)
    ON CONFLICT (tenant_id, task_id, attempt) DO UPDATE SET
        agent = excluded.agent, slip = excluded.slip, session_id = excluded.session_id, run_id = excluded.run_id,
        principal = excluded.principal, workflow_id = excluded.workflow_id, workflow_run_id = excluded.workflow_run_id,
        activity_id = excluded.activity_id, deadline = excluded.deadline, secret_hash = excluded.secret_hash,
        event = excluded.event, ticket = excluded.ticket, state = 'open', issued_at = now(), closed_at = NULL
        WHERE d.state <> 'open'
    RETURNING 1
), queued AS (
    INSERT INTO flotilla.agent_tasks (tenant_id, task_id, agent, session_id, run_id, status, attempt)
    VALUES ($1, $2, $6, $8, $9, 'queued', $3)
    ON CONFLICT (tenant_id, task_id) DO UPDATE
        SET status = 'queued', attempt = EXCLUDED.attempt, entry_id = NULL, failure = NULL, finished_at = NULL
        WHERE agent_tasks.status <> 'done' AND agent_tasks.attempt < EXCLUDED.attempt
)
SELECT count(*) FROM opened
"""
_SUPERSEDE = """
UPDATE flotilla.delegations SET state = 'superseded', event = NULL, ticket = NULL, closed_at = now()
WHERE tenant_id = $1 AND root_task_id = $2 AND attempt < $3 AND state = 'open'
"""
_PUBLISHED = "SELECT event, ticket FROM flotilla.delegations WHERE tenant_id = $1 AND task_id = $2 AND attempt = $3"
_CLOSE = """
UPDATE flotilla.delegations SET state = $4, event = NULL, ticket = NULL, closed_at = now()
WHERE tenant_id = $1 AND task_id = $2 AND attempt = $3 AND state = 'open'
"""
# Remembers where in the stream the task is.
_STORE_ENTRY = """
UPDATE flotilla.agent_tasks SET entry_id = $3 WHERE tenant_id = $1 AND task_id = $2 AND attempt = $4
"""


@dataclass(frozen=True, slots=True)
class Hop:
    """The hop of a slip that is to be done, and what is stored of it: nothing, an earlier try, or an answer."""

    task: AgentTask
    stored: asyncpg.Record | None


async def hop_to_do(connection: Connection, task: AgentTask) -> Hop:
    """The first hop from `task` on without a stored result; the last one, with its answer, when all are done."""
    ids = [task.task_id]
    for _ in task.slip:
        ids.append(next_hop_id(ids[-1]))
    stored = {row["task_id"]: row for row in await connection.fetch(_ANSWERS, task.tenant_id, ids)}
    while (row := stored.get(task.task_id)) is not None and row["status"] == "done" and task.slip:
        task = hop_after(task, row["result"])
    return Hop(task, row)


def hop_after(task: AgentTask, result: str) -> AgentTask:
    """The task for the next agent of the slip over `result` (JSON text), by reference where it is large."""
    body = result.encode()
    return next_hop(task, from_json(body, dict), by_reference=len(body) > MAX_INLINE_RESULT_BYTES)


async def open_hop(
    connection: Connection, task: AgentTask, waiting: ReplyAddress, deadline: datetime, signer: Signer
) -> SealedEvent:
    """Write the hop's row, with a secret of its own, and return what is to be published.

    Where somebody else opened it meanwhile, that one's event is returned.

    Raises:
        Oversize: the task is too large for a stream.
    """
    secret = secrets.token_urlsafe(SECRET_BYTES)
    issued = replace(task, reply_to=waiting, deadline=deadline.isoformat(), secret=secret)
    sealed = _sealed(issued, signer)
    if task.attempt > 1:
        await connection.execute(_SUPERSEDE, task.tenant_id, root_task_id(task.task_id), task.attempt)
    opened = await connection.fetchval(
        _OPEN,
        task.tenant_id,
        task.task_id,
        task.attempt,
        root_task_id(task.task_id),
        hop_of(task.task_id),
        task.agent,
        task.slip,
        task.session_id,
        task.run_id,
        task.user_id,
        waiting.workflow_id,
        waiting.workflow_run_id,
        waiting.activity_id,
        deadline,
        sha256(secret.encode()).digest(),
        sealed.body,
        sealed.ticket,
    )
    return sealed if opened else await published_event(connection, task) or sealed


async def published_event(connection: Connection, task: AgentTask) -> SealedEvent | None:
    """What was published for this hop and try; None if there is no open row."""
    row = await connection.fetchrow(_PUBLISHED, task.tenant_id, task.task_id, task.attempt)
    return None if row is None or row["event"] is None else SealedEvent(row["event"], row["ticket"])


async def store_entry(connection: Connection, task: AgentTask, entry_id: str) -> None:
    """Remembers where in its stream the task is."""
    await connection.execute(_STORE_ENTRY, task.tenant_id, task.task_id, entry_id, task.attempt)


async def close_hop(connection: Connection, tenant_id: str, task_id: str, attempt: int, state: str) -> None:
    """Ends the row; does nothing if it has ended. What was published goes: nobody needs it any more."""
    await connection.execute(_CLOSE, tenant_id, task_id, attempt, state)


def _sealed(task: AgentTask, signer: Signer) -> SealedEvent:
    data = to_builtins(task)
    if task.timeout_s is None:
        del data["timeout_s"]  # readers that know the field expect a number
    event = AgentEvent(
        type=TASK_REQUESTED,
        source=SOURCE,
        subject=task.session_id,
        data=data,
        tenant=task.tenant_id,
        runid=task.run_id,
        taskid=task.task_id,
        traceparent=current_traceparent(),
    )
    sealed = seal(event, signer)
    check_size(task_stream(task.agent), event, sealed.body)
    return sealed
