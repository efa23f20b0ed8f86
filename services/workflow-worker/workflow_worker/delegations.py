"""The rows of `flotilla.delegations`: what was delegated to whom, written before it is published.

A row stands for one hop of a slip in one try. It holds who may answer, which activity waits, and the event to publish
with its ticket; nothing that a reply says takes their place.
"""

import secrets
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from hashlib import sha256
from typing import Any

import asyncpg

from flotilla.bus import AgentEventBus, Redis, entry_exists
from flotilla.bus.entries import check_entry_size
from flotilla.bus.tickets import SignedEvent, sign_event
from flotilla.config.signing import Signer
from flotilla.contracts.envelope import AgentEvent, from_json, to_builtins, to_json
from flotilla.contracts.json_types import JsonObject
from flotilla.contracts.mcp import MCP_AGENT
from flotilla.contracts.names import task_stream
from flotilla.contracts.tasks import (
    MAX_INLINE_RESULT_BYTES,
    TASK_REQUESTED,
    AgentTask,
    ReplyAddress,
    hop_number,
    next_hop,
    next_hop_id,
    root_task_id,
)
from flotilla.encryption import is_wrapped
from flotilla.encryption.tables import AGENT_TASKS
from flotilla.postgres import Connection, Pool, open_rows
from flotilla.telemetry import current_traceparent
from workflow_worker.delegates import KnownDelegates
from workflow_worker.recent_hops import RecentHopCache
from workflow_worker.routes import AgentRoutes

SOURCE = "/workflow-worker"
TASK_SECRET_BYTES = 32

# The answers there are to a slip's hops.
_SELECT_STORED_ANSWERS = """
SELECT task_id, status, attempt, entry_id, result, failure FROM flotilla.agent_tasks
WHERE tenant_id = $1 AND task_id = ANY($2)
"""
# Opens a hop for a try; whether it was not open yet.
_HOP_ROW_PARAMETERS = ", ".join(f"${number}" for number in range(1, 19))
_OPEN_HOP = f"SELECT flotilla.open_hop({_HOP_ROW_PARAMETERS}, '{{}}', NULL)"
# The same unless one of the tasks $19 is on record, without waiting for the disk.
_OPEN_FIRST_HOP = f"SELECT flotilla.open_hop({_HOP_ROW_PARAMETERS}, $19, false)"
_SUPERSEDE_EARLIER_ATTEMPTS = """
UPDATE flotilla.delegations SET state = 'superseded', event = NULL, ticket = NULL, closed_at = now()
WHERE tenant_id = $1 AND root_task_id = $2 AND attempt < $3 AND state = 'open'
"""
_SELECT_OPENED_HOP = """
SELECT d.agent, d.session_id, d.event, d.ticket, CASE WHEN t.attempt = d.attempt THEN t.entry_id END AS entry_id
FROM flotilla.delegations AS d LEFT JOIN flotilla.agent_tasks AS t USING (tenant_id, task_id)
WHERE d.tenant_id = $1 AND d.task_id = $2 AND d.attempt = $3 AND d.event IS NOT NULL
"""
# Lets a hop run again, if it has no result and no later try took its place.
_REOPEN_HOP = """
UPDATE flotilla.delegations AS d SET state = 'open', deadline = $5, secret_hash = $6, event = $7, ticket = $8,
    issued_at = now(), closed_at = NULL
FROM flotilla.agent_tasks AS t
WHERE d.tenant_id = $1 AND d.task_id = $2 AND d.attempt = $3 AND d.agent = $4 AND d.state <> 'superseded'
  AND t.tenant_id = d.tenant_id AND t.task_id = d.task_id AND t.status <> 'done' AND t.attempt = d.attempt
"""
_CLOSE_HOP = """
UPDATE flotilla.delegations SET state = $4, event = NULL, ticket = NULL, closed_at = now()
WHERE tenant_id = $1 AND task_id = $2 AND attempt = $3 AND state = 'open'
"""
# Ends what is still given out of a run ($2), or of a task ($3) of session $4 and the calls that its hops asked for.
_CLOSE_OPEN_HOPS = r"""
WITH closed AS (
    UPDATE flotilla.delegations AS d SET state = 'cancelled', event = NULL, ticket = NULL, closed_at = now()
    WHERE d.tenant_id = $1 AND d.state = 'open' AND d.task_id IN (
        SELECT t.task_id FROM flotilla.agent_tasks AS t WHERE t.tenant_id = $1 AND t.run_id = $2
        UNION ALL
        SELECT r.task_id FROM flotilla.delegations AS r WHERE r.tenant_id = $1 AND r.root_task_id = $3
        UNION ALL
        SELECT t.task_id FROM flotilla.agent_tasks AS t
        WHERE t.tenant_id = $1 AND t.session_id = $4 AND t.agent = 'mcp' AND starts_with(t.task_id, $3)
          AND substr(t.task_id, length($3) + 1) ~ '^(-[0-9]+)?\.mcp\.')
    RETURNING d.task_id
)
UPDATE flotilla.agent_tasks AS t SET status = 'cancelled', finished_at = now() FROM closed AS c
WHERE t.tenant_id = $1 AND t.task_id = c.task_id AND t.status = 'queued'
"""
# Ends a hop whose result is stored and opens the one after it.
_FORWARD_SLIP = "SELECT flotilla.forward_slip($1, $2, $3, $4, $5, $6, $7, $8)"
# The same, for a hop that is known here and whose reply has the result; returns the row.
_FORWARD_ANSWERED_SLIP = "SELECT * FROM flotilla.forward_answered($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)"
# Remembers where in the stream the task is.
_STORE_ENTRY = "SELECT flotilla.note_entry($1, $2, $3, $4)"


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishableHop:
    """A hop that waits for its agent: what is published, and where in the stream it is if that was done before."""

    tenant_id: str
    task_id: str
    attempt: int
    agent: str
    session_id: str
    sealed: SignedEvent
    entry_id: str | None = None
    task: AgentTask | None = None
    """What `sealed` holds, where this process wrote it."""


@dataclass(frozen=True, slots=True)
class SlipHop:
    """The hop of a slip that is to be done, and what is stored of it: nothing, an earlier try, or an answer."""

    task: AgentTask
    stored: Mapping[str, Any] | None
    """Decrypted."""


async def find_next_open_hop(connection: Connection, task: AgentTask) -> SlipHop:
    """The first hop from `task` on without a stored result; the last one, with its answer, when all are done."""
    found = await connection.fetch(_SELECT_STORED_ANSWERS, task.tenant_id, _hop_task_ids_from(task))
    opened = await open_rows(
        connection, task.tenant_id, AGENT_TASKS, [{**row, "session_id": task.session_id} for row in found]
    )
    stored = {row["task_id"]: row for row in opened}
    while (row := stored.get(task.task_id)) is not None and row["status"] == "done" and task.slip:
        task = make_next_hop_task(task, row["result"])
    return SlipHop(task, row)


def _hop_task_ids_from(task: AgentTask) -> list[str]:
    """The ids of `task` and of the hops after it."""
    ids = [task.task_id]
    for _ in task.slip:
        ids.append(next_hop_id(ids[-1]))
    return ids


def make_next_hop_task(task: AgentTask, result: str) -> AgentTask:
    """The task for the next agent of the slip over `result` (JSON text), by reference where it is large, or the task's
    input is encrypted."""
    body = result.encode()
    by_reference = len(body) > MAX_INLINE_RESULT_BYTES or is_wrapped(task.input)
    return next_hop(task, from_json(body, dict), by_reference=by_reference)


async def insert_first_hop(
    pool: Pool, task: AgentTask, waiting: ReplyAddress, deadline: datetime, signer: Signer
) -> PublishableHop | None:
    """Write the row of a slip's first hop, as `open_hop`; None, with nothing written, if one of its hops is on record.

    Not durable: a row that a crash of PostgreSQL takes away is opened again by the next attempt of the activity.

    Raises:
        Oversize: the task is too large for a stream.
    """
    opened, row = _sign_task_and_build_row(task, waiting, deadline, signer)
    return opened if await pool.fetchval(_OPEN_FIRST_HOP, *row, _hop_task_ids_from(task)) else None


async def insert_hop(
    connection: Connection, task: AgentTask, waiting: ReplyAddress, deadline: datetime, signer: Signer
) -> PublishableHop:
    """Write the hop's row, with a secret of its own, and return what is to be published.

    Where it is open already, what was published for it is returned.

    Raises:
        Oversize: the task is too large for a stream.
    """
    if task.attempt > 1 or task.agent == MCP_AGENT:  # whose try 0 is not the worker's
        await connection.execute(_SUPERSEDE_EARLIER_ATTEMPTS, task.tenant_id, root_task_id(task.task_id), task.attempt)
    opened, row = _sign_task_and_build_row(task, waiting, deadline, signer)
    is_new = await connection.fetchval(_OPEN_HOP, *row)
    earlier = None if is_new else await load_publishable_hop(connection, task.tenant_id, task.task_id, task.attempt)
    return earlier or opened


def _sign_task_and_build_row(
    task: AgentTask, waiting: ReplyAddress, deadline: datetime, signer: Signer
) -> tuple[PublishableHop, tuple[object, ...]]:
    """What is to be published, and its row."""
    opened, digest = _sign_task_with_new_secret(replace(task, reply_to=waiting, deadline=deadline.isoformat()), signer)
    row = (
        task.tenant_id,
        task.task_id,
        task.attempt,
        root_task_id(task.task_id),
        hop_number(task.task_id),
        task.agent,
        task.slip,
        task.session_id,
        task.run_id,
        task.user_id,
        waiting.workflow_id,
        waiting.workflow_run_id,
        waiting.activity_id,
        deadline,
        digest,
        opened.sealed.body,
        opened.sealed.ticket,
        task.input_from or "",
    )
    return opened, row


def _sign_task_with_new_secret(task: AgentTask, signer: Signer) -> tuple[PublishableHop, bytes]:
    """What is to be published for `task`, with a secret of its own, and the SHA-256 of the secret."""
    task = replace(task, secret=secrets.token_urlsafe(TASK_SECRET_BYTES))
    opened = PublishableHop(
        tenant_id=task.tenant_id,
        task_id=task.task_id,
        attempt=task.attempt,
        agent=task.agent,
        session_id=task.session_id,
        sealed=_sign_task_event(task, signer),
        task=task,
    )
    return opened, _task_secret_digest(task)


def _task_secret_digest(task: AgentTask) -> bytes:
    """The SHA-256 of the task's secret, which the fleet's own tasks have."""
    assert task.secret is not None  # noqa: S101
    return sha256(task.secret.encode()).digest()


async def close_hop_and_open_next(pool: Pool, task: AgentTask, result: str, signer: Signer) -> PublishableHop | None:
    """End the hop `task`, as it was published, with its stored result (JSON text), and open the next one.

    Return None, with neither changed, if the hop has ended or the next one is open already. Not durable: after a crash
    of PostgreSQL the reply, which is not acknowledged yet, comes again.

    Raises:
        Oversize: the next task is too large for a stream.
    """
    opened, following = _sign_task_of_next_hop(task, result, signer)
    is_new = await pool.fetchval(_FORWARD_SLIP, task.tenant_id, task.task_id, task.attempt, *following)
    return opened if is_new else None


async def close_answered_hop_and_open_next(
    pool: Pool, task: AgentTask, result: JsonObject, signer: Signer
) -> tuple[asyncpg.Record, PublishableHop] | None:
    """As `forward_slip`, where `result` is what a reply says and must equal what is stored; with the hop as it was.

    Return None, with nothing changed, if it is not, the hop is not that of the task's agent and session, or it was
    published again since.
    """
    answered = to_json(result).decode()
    opened, following = _sign_task_of_next_hop(task, answered, signer)
    row = await pool.fetchrow(
        _FORWARD_ANSWERED_SLIP,
        task.tenant_id,
        task.task_id,
        task.attempt,
        task.agent,
        task.session_id,
        _task_secret_digest(task),
        answered,
        *following,
    )
    return None if row is None else (row, opened)


def _sign_task_of_next_hop(task: AgentTask, result: str, signer: Signer) -> tuple[PublishableHop, tuple[object, ...]]:
    """What is to be published after `task`, and what of it the database does not know from the hop before."""
    following = make_next_hop_task(task, result)
    opened, digest = _sign_task_with_new_secret(following, signer)
    sealed = opened.sealed
    return opened, (following.task_id, digest, sealed.body, sealed.ticket, following.input_from or "")


async def load_publishable_hop(
    connection: Connection, tenant_id: str, task_id: str, attempt: int
) -> PublishableHop | None:
    """What waits for its agent; None if there is no such row, or it is closed."""
    row = await connection.fetchrow(_SELECT_OPENED_HOP, tenant_id, task_id, attempt)
    if row is None:
        return None
    return PublishableHop(
        tenant_id=tenant_id,
        task_id=task_id,
        attempt=attempt,
        agent=row["agent"],
        session_id=row["session_id"],
        sealed=SignedEvent(row["event"], row["ticket"]),
        entry_id=row["entry_id"],
    )


async def allow_hop_answer_again(connection: Connection, task: AgentTask, sealed: SignedEvent) -> bool:
    """Let a hop be answered again under `sealed`, which must be this fleet's own; whether it may be.

    It may not once it has a result, or a later try took its place.
    """
    assert task.deadline is not None  # noqa: S101 - the fleet's own
    digest, deadline = _task_secret_digest(task), datetime.fromisoformat(task.deadline)
    status: str = await connection.execute(
        _REOPEN_HOP,
        task.tenant_id,
        task.task_id,
        task.attempt,
        task.agent,
        deadline,
        digest,
        sealed.body,
        sealed.ticket,
    )
    return status == "UPDATE 1"


def sign_task_again(task: AgentTask, deadline: datetime, signer: Signer) -> tuple[AgentTask, SignedEvent]:
    """The same task with more time and a secret of its own."""
    issued = replace(task, deadline=deadline.isoformat(), secret=secrets.token_urlsafe(TASK_SECRET_BYTES))
    return issued, _sign_task_event(issued, signer)


async def end_hop_row(connection: Connection, tenant_id: str, task_id: str, attempt: int, state: str) -> None:
    """End the row; nothing if it has ended. What was published goes: nobody needs it any more."""
    await connection.execute(_CLOSE_HOP, tenant_id, task_id, attempt, state)


async def close_open_hops_of_run(connection: Connection, tenant_id: str, run_id: str) -> None:
    """End what is still given out of a run that is over: nobody waits for it."""
    await connection.execute(_CLOSE_OPEN_HOPS, tenant_id, run_id, None, None)


async def close_open_hops_of_task(connection: Connection, tenant_id: str, session_id: str, task_id: str) -> None:
    """End what is still given out of a task that is over, its calls of MCP tools included."""
    await connection.execute(_CLOSE_OPEN_HOPS, tenant_id, None, task_id, session_id)


class HopPublisher:
    """Puts opened hops on their agents' streams."""

    def __init__(self, pool: Pool, redis: Redis, delegates: KnownDelegates, recent: RecentHopCache) -> None:
        self._pool = pool
        self._redis = redis
        self._delegates = delegates
        self._recent = recent
        self._routes = AgentRoutes(pool)
        self._bus = AgentEventBus(redis)

    async def publish_hop(self, opened: PublishableHop) -> None:
        """Publish `opened` for the version that it is routed to, unless it is in that stream.

        Raises:
            RetryLater: Redis or PostgreSQL is unavailable, or the stream is full.
        """
        stream = task_stream(opened.agent, await self._routes.choose_version_for_hop(opened))
        if opened.entry_id is not None and await entry_exists(self._redis, stream, opened.entry_id):
            return
        await self._delegates.note_delegate(opened.agent)
        if opened.task is not None:
            self._recent.remember_hop(opened.task, opened.sealed.body)
        entry_id = await self._bus.publish(stream, opened.sealed)
        await self._pool.execute(_STORE_ENTRY, opened.tenant_id, opened.task_id, opened.attempt, entry_id)


def _sign_task_event(task: AgentTask, signer: Signer) -> SignedEvent:
    data = to_builtins(task)
    if task.timeout_s is None:
        del data["timeout_s"]  # readers that know the field expect a number
    if task.replay is None:
        del data["replay"]
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
    sealed = sign_event(event, signer)
    check_entry_size(task_stream(task.agent), event, sealed.body)
    return sealed
