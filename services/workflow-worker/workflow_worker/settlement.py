"""What a reply comes to, decided from what is on record: who was asked, for what, and what is stored of the answer.

A reply names a task; everything else (which activity waits, what comes next, whose session it is) stands in the row of
the delegation. That an answer is stored is looked up, never believed.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NoReturn

import asyncpg
import structlog

from flotilla.actions.arguments import load_action_argument_types
from flotilla.config.signing import Signer
from flotilla.contracts.approvals import MAX_ARGS_BYTES
from flotilla.contracts.envelope import decode_event, from_builtins, from_json, to_json
from flotilla.contracts.errors import DeadLetter, Refused, RetryLater
from flotilla.contracts.mcp import MCP_AGENT
from flotilla.contracts.tasks import (
    APPROVAL_REQUIRED,
    AgentReply,
    AgentTask,
    Failure,
    ReplyAddress,
    hop_number,
    is_mcp_call_id,
    next_hop_id,
    root_task_id,
)
from flotilla.encryption import is_wrapped
from flotilla.encryption.tables import AGENT_TASKS
from flotilla.postgres import (
    UNSTORABLE,
    Connection,
    Pool,
    open_row,
    open_stored_row,
    retry_later_if_unavailable,
    seal_columns,
    tenant_transaction,
)
from flotilla.telemetry.metrics import REPLIES_REFUSED
from workflow_worker.delegations import (
    PublishableHop,
    close_answered_hop_and_open_next,
    close_hop_and_open_next,
    end_hop_row,
    insert_hop,
    load_publishable_hop,
    make_next_hop_task,
)
from workflow_worker.foreign_replies import store_foreign_reply
from workflow_worker.recent_hops import RecentHopCache

MISSING_ROW_WAIT_S = 60.0
"""How long a reply waits for its task's row: `delegate` opens a lost one again after 20 s of silence (SILENCE_TIMEOUT),
its back-off of up to 10 s and PostgreSQL's recovery."""

MAX_APPROVALS_PER_PAUSE = 50
MAX_NAMED_CHARS = 200
_TOOL_NAME = re.compile(r"[A-Za-z0-9_-]{1,100}")
_MCP_TOOL_NAME = re.compile(r"mcp\.[a-z0-9_-]{1,32}\.[A-Za-z0-9_.-]{1,64}")
_APPROVAL_ID = re.compile(r"[A-Za-z0-9._:~-]{1,300}")

_SELECT_DELEGATED_TASK = """
SELECT agent, slip, session_id, run_id, principal, workflow_id, workflow_run_id, activity_id, deadline, state, event
FROM flotilla.delegations WHERE tenant_id = $1 AND task_id = $2 AND attempt = $3
"""
# The same with the answer that is stored; ends the delegation when that is a result, and $6.
_SETTLE_REPLY = "SELECT * FROM flotilla.settle($1, $2, $3, $4, $5, $6)"
# The same as a statement alone, for a stored result: ends the delegation only where the result ends the slip.
_SETTLE_STORED_REPLY = "SELECT * FROM flotilla.settle_stored($1, $2, $3, $4, $5)"
_SELECT_LAST_HOP_NUMBER = """
SELECT max(hop + cardinality(slip)) FROM flotilla.delegations
WHERE tenant_id = $1 AND root_task_id = $2 AND attempt = $3
"""
_SELECT_STORED_ANSWER = """
SELECT status, attempt, result, failure, duration_ms FROM flotilla.agent_tasks WHERE tenant_id = $1 AND task_id = $2
"""
_MARK_TASK_DEAD_LETTERED = """
UPDATE flotilla.agent_tasks SET status = 'dead_lettered', failure = $4, finished_at = now()
WHERE tenant_id = $1 AND task_id = $2 AND attempt = $3 AND status = 'queued'
"""

log = structlog.get_logger(__name__)


class ReplyRefused(DeadLetter):
    """The agent may not give this reply."""


@dataclass(frozen=True, slots=True)
class DelegatedTask:
    """The row that a reply refers to."""

    tenant_id: str
    task_id: str
    attempt: int
    row: asyncpg.Record

    @property
    def waiting_activity(self) -> ReplyAddress:
        """The activity that waits."""
        row = self.row
        return ReplyAddress(
            workflow_id=row["workflow_id"], workflow_run_id=row["workflow_run_id"], activity_id=row["activity_id"]
        )

    @property
    def reply_deadline(self) -> datetime:
        """After it nobody waits."""
        return self.row["deadline"]  # type: ignore[no-any-return]

    @property
    def task(self) -> AgentTask:
        """What was published, while it is open."""
        return from_builtins(decode_event(self.row["event"]).data, AgentTask)

    @property
    def is_unanswered(self) -> bool:
        """Whether the answer is still to come."""
        return bool(self.row["state"] == "open")


@dataclass(frozen=True, slots=True)
class StoredAnswer:
    """The answer that is on record."""

    status: str
    result: str | None = None
    """JSON text."""
    failure: Failure | None = None
    duration_ms: float = 0.0


@dataclass(frozen=True, slots=True)
class SettledReply:
    """What is to be done about a reply. Without an answer it is a sign of life."""

    delegated: DelegatedTask
    answer: StoredAnswer | None = None
    following: PublishableHop | None = None
    """The next hop of the slip."""


class ReplySettler:
    """Decides about replies."""

    def __init__(self, pool: Pool, signer: Signer, recent: RecentHopCache) -> None:
        self.pool = pool
        self._signer = signer
        self._recent = recent

    async def settle_reply(self, agent: str, reply: AgentReply, age_s: float) -> SettledReply | None:
        """What the reply of `agent` comes to, on record when this returns; None for one that comes too late.

        Raises:
            ReplyRefused: the agent may not give it.
            DeadLetter: it holds what can't be stored.
            RetryLater: PostgreSQL is unavailable, or does not know the task (yet).
        """
        try:
            # What an agent stored itself is on disk; what the bridge stores for a foreign one must be.
            with retry_later_if_unavailable():
                if (settled := await self._settle_in_one_round_trip(agent, reply)) is not None:
                    return settled
                async with tenant_transaction(self.pool, reply.tenant_id, durable=not reply.persisted) as connection:
                    return await self._settle_in_transaction(connection, agent, reply, age_s)
        except (Refused, *UNSTORABLE) as error:
            raise DeadLetter(f"reply to task {reply.task_id} is refused: {error}") from error

    async def _settle_in_one_round_trip(self, agent: str, reply: AgentReply) -> SettledReply | None:
        """End a slip in one round trip, or forward it in one or two, as nearly all replies do; None, with nothing
        written, if more is to be done."""
        if not (reply.persisted and reply.status == "done" and reply.agent == agent):
            return None
        if (forwarded := await self._forward_recently_published_hop(agent, reply)) is not None:
            return forwarded
        names = (reply.tenant_id, reply.task_id, reply.attempt)
        row = await self.pool.fetchrow(_SETTLE_STORED_REPLY, *names, agent, reply.session_id)
        if row is None:
            return None
        delegated = DelegatedTask(*names, row)
        following = None
        if not row["closed"]:
            if is_wrapped(from_json(row["result"], dict)) and not is_wrapped(delegated.task.input):
                return None
            following = await close_hop_and_open_next(self.pool, delegated.task, row["result"], self._signer)
            if following is None:
                return None
        opened = await open_stored_row(self.pool, reply.tenant_id, AGENT_TASKS, _with_encryption_place(row, delegated))
        return SettledReply(delegated, _stored_answer_from_row(opened, delegated, reply), following)

    async def _forward_recently_published_hop(self, agent: str, reply: AgentReply) -> SettledReply | None:
        """Forward a hop that this process has published; None, with nothing written, if more is to be looked at."""
        names = (reply.tenant_id, reply.task_id, reply.attempt)
        task = self._recent.pop_hop(*names)
        if task is None or reply.result is None or (is_wrapped(reply.result) and not is_wrapped(task.input)):
            return None
        if (task.agent, task.session_id) != (agent, reply.session_id):
            return None
        try:
            forwarded = await close_answered_hop_and_open_next(self.pool, task, reply.result, self._signer)
        except (Refused, *UNSTORABLE):
            return None  # it is not what is stored
        if forwarded is None:
            return None
        row, following = forwarded
        delegated = DelegatedTask(*names, row)
        return SettledReply(delegated, _stored_answer_from_row(dict(row), delegated, reply), following)

    async def _settle_in_transaction(
        self, connection: Connection, agent: str, reply: AgentReply, age_s: float
    ) -> SettledReply | None:
        delegated = await _load_delegated_task(connection, agent, reply, age_s)
        if delegated.row["state"] == "superseded" or (reply.status == "progress" and not delegated.is_unanswered):
            REPLIES_REFUSED.labels(agent, "late").inc()
            return None
        if reply.status == "progress":
            return SettledReply(delegated)
        row: asyncpg.Record | None = delegated.row
        if delegated.is_unanswered and not reply.persisted:
            await store_foreign_reply(connection, agent, reply, run_id=delegated.row["run_id"])
            row = await connection.fetchrow(_SELECT_STORED_ANSWER, delegated.tenant_id, delegated.task_id)
        stored = None
        if row is not None:
            stored = await open_row(
                connection, delegated.tenant_id, AGENT_TASKS, _with_encryption_place(row, delegated)
            )
        answer = _stored_answer_from_row(stored, delegated, reply)
        if answer is None:  # a try that is over, with nothing stored of it
            REPLIES_REFUSED.labels(agent, "late").inc()
            return None
        check_requested_calls(agent, reply, answer.failure)
        following = await self._open_following_hop(connection, delegated, answer)
        if not delegated.row["closed"]:
            await end_hop_row(connection, delegated.tenant_id, delegated.task_id, delegated.attempt, answer.status)
        return SettledReply(delegated, answer, following)

    async def _open_following_hop(
        self, connection: Connection, delegated: DelegatedTask, answer: StoredAnswer
    ) -> PublishableHop | None:
        if answer.status != "done" or answer.result is None or not delegated.row["slip"]:
            return None
        if not delegated.is_unanswered:  # the reply comes again: perhaps the next hop was never published
            return await load_publishable_hop(
                connection, delegated.tenant_id, next_hop_id(delegated.task_id), delegated.attempt
            )
        following = make_next_hop_task(delegated.task, answer.result)
        return await insert_hop(
            connection, following, delegated.waiting_activity, delegated.reply_deadline, self._signer
        )

    async def fail_open_task(
        self, agent: str, tenant_id: str, task_id: str, attempt: int, why: str
    ) -> SettledReply | None:
        """Ends a task of `agent` whose reply nobody can use; None if it is not an open task of it.

        Raises:
            RetryLater: PostgreSQL is unavailable.
        """
        failure = Failure(type="DeadLetter", message=f"refused: {why}".replace("\x00", "\ufffd"), retryable=False)
        try:
            with retry_later_if_unavailable():
                async with tenant_transaction(self.pool, tenant_id) as connection:
                    row = await connection.fetchrow(_SELECT_DELEGATED_TASK, tenant_id, task_id, attempt)
                    if row is None or row["agent"] != agent or row["state"] != "open":
                        return None
                    stored = await seal_columns(
                        connection,
                        tenant_id,
                        row["session_id"],
                        AGENT_TASKS,
                        task_id,
                        failure=to_json(failure).decode(),
                    )
                    await connection.execute(_MARK_TASK_DEAD_LETTERED, tenant_id, task_id, attempt, stored["failure"])
                    await end_hop_row(connection, tenant_id, task_id, attempt, "dead_lettered")
        except UNSTORABLE:
            return None
        return SettledReply(
            DelegatedTask(tenant_id, task_id, attempt, row), StoredAnswer("dead_lettered", failure=failure)
        )


async def _load_delegated_task(connection: Connection, agent: str, reply: AgentReply, age_s: float) -> DelegatedTask:
    is_answer = reply.persisted and reply.status != "progress" and reply.agent == agent
    row = await connection.fetchrow(
        _SETTLE_REPLY, reply.tenant_id, reply.task_id, reply.attempt, agent, reply.session_id, is_answer
    )
    if row is None:
        await _refuse_reply_without_task(connection, agent, reply, age_s)
    elif row["agent"] != agent:
        raise record_refused_reply(agent, reply, "another_agent", f"the task is not that of agent {agent}")
    elif row["session_id"] != reply.session_id or reply.agent != agent:
        raise record_refused_reply(agent, reply, "other_session", "session or agent is not the task's")
    return DelegatedTask(reply.tenant_id, reply.task_id, reply.attempt, row)


async def _refuse_reply_without_task(connection: Connection, agent: str, reply: AgentReply, age_s: float) -> NoReturn:
    try:
        root, hop = root_task_id(reply.task_id), hop_number(reply.task_id)
    except ValueError:
        raise record_refused_reply(agent, reply, "unknown_hop", "no hop has such an id") from None
    last = await connection.fetchval(_SELECT_LAST_HOP_NUMBER, reply.tenant_id, root, reply.attempt)
    if last is not None and not 0 <= hop <= last:
        raise record_refused_reply(agent, reply, "unknown_hop", f"its slip ends at hop {last}")
    why = f"no such task of tenant {reply.tenant_id}, or no try {reply.attempt}"
    if age_s < MISSING_ROW_WAIT_S:
        raise RetryLater(f"reply to task {reply.task_id}: {why}")
    raise record_refused_reply(agent, reply, "unknown_task", why)


def _with_encryption_place(row: asyncpg.Record, delegated: DelegatedTask) -> dict[str, Any]:
    """A stored answer with what its ciphertexts are bound to."""
    return {**row, "task_id": delegated.task_id, "session_id": delegated.row["session_id"]}


def _stored_answer_from_row(
    row: Mapping[str, Any] | None, delegated: DelegatedTask, reply: AgentReply
) -> StoredAnswer | None:
    is_answer = row is not None and row["status"] not in (None, "queued")
    if row is not None and is_answer and (row["status"] == "done" or row["attempt"] == delegated.attempt):
        failure = None if row["failure"] is None else from_json(row["failure"], Failure)
        return StoredAnswer(row["status"], row["result"], failure, row["duration_ms"] or 0.0)
    if not delegated.is_unanswered:
        return None
    if reply.status == "cancelled":
        return StoredAnswer("cancelled")
    raise record_refused_reply(
        delegated.row["agent"], reply, "not_stored", "it says that its answer is stored, and none is"
    )


def check_requested_calls(agent: str, reply: AgentReply | AgentTask, failure: Failure | None) -> None:
    """Check that what a pausing task asks for are calls of the agent's own tools, or of MCP tools, made by this task.

    Raises:
        ReplyRefused: it asks for something else.
    """
    if failure is None or failure.type != APPROVAL_REQUIRED:
        return
    count = len(failure.approvals) + len(failure.calls)
    if not 0 < count <= MAX_APPROVALS_PER_PAUSE:
        raise record_refused_reply(agent, reply, "approval", f"it asks for {count} approvals and calls")
    size = sum(len(to_json(needed.args)) for needed in failure.approvals)
    size += sum(len(to_json(call.arguments)) for call in failure.calls)
    if size > MAX_ARGS_BYTES:
        raise record_refused_reply(
            agent, reply, "approval", f"it asks about {size} bytes of arguments, {MAX_ARGS_BYTES} are allowed"
        )
    for needed in failure.approvals:
        if not _is_tool_of(agent, needed.action) or needed.action in load_action_argument_types():
            raise record_refused_reply(agent, reply, "approval", f"{needed.action!r} is not a tool of agent {agent}")
        if not needed.approval_id.startswith(f"{reply.task_id}.") or not _APPROVAL_ID.fullmatch(needed.approval_id):
            raise record_refused_reply(
                agent, reply, "approval", f"approval {needed.approval_id!r} is not one of this task"
            )
    _check_requested_mcp_calls(agent, reply, failure)


def _check_requested_mcp_calls(agent: str, reply: AgentReply | AgentTask, failure: Failure) -> None:
    for call in failure.calls:
        if not is_mcp_call_id(reply.task_id, call.call_id):
            raise record_refused_reply(agent, reply, "approval", f"call {call.call_id!r} is not one of this task")
        if not _MCP_TOOL_NAME.fullmatch(f"{MCP_AGENT}.{call.tool}"):
            raise record_refused_reply(
                agent, reply, "approval", f"{call.tool[:MAX_NAMED_CHARS]!r} is not a tool of an MCP server"
            )
    if len({call.call_id for call in failure.calls}) < len(failure.calls):
        raise record_refused_reply(agent, reply, "approval", "it asks for the same call twice")


def _is_tool_of(agent: str, action: str) -> bool:
    """Whether policy's name for a tool is that of one of the agent's own; those of the tool gateway have their server's
    name in theirs."""
    if agent == MCP_AGENT:
        return _MCP_TOOL_NAME.fullmatch(action) is not None
    owner, _, tool = action.rpartition(".")
    return owner == agent and _TOOL_NAME.fullmatch(tool) is not None


def record_refused_reply(agent: str, reply: AgentReply | AgentTask, reason: str, why: str) -> ReplyRefused:
    """Count and log a reply that its agent may not give."""
    REPLIES_REFUSED.labels(agent, reason).inc()
    log.error("reply_refused", agent=agent, task_id=reply.task_id, tenant=reply.tenant_id, reason=reason, error=why)
    return ReplyRefused(f"reply to task {reply.task_id}: {why}")
