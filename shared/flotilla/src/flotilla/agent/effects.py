"""The one transaction in which a task becomes done: its row, its actions, the author's effects, its events.

The row in `flotilla.agent_tasks` is the idempotency key. The second one finds it done, rolls back what it was
about to write, and answers with what is stored.
"""

import json
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import asyncpg
import msgspec

from flotilla.agent.context import Effect
from flotilla.agent.execution import Outcome
from flotilla.agent.tool_calls import unrecorded
from flotilla.contracts.envelope import to_json
from flotilla.contracts.errors import RetryLater
from flotilla.contracts.event_rules import AGENT_PREFIX
from flotilla.contracts.session_events import AgentStateEvent
from flotilla.contracts.tasks import AgentTask, Failure, ReplyStatus
from flotilla.outbox import append
from flotilla.postgres import AWAY, Connection, Pool, may_leave_state, retry_when_away, tenant_transaction

# The outcome of the task's ticket, and the answer to the task, if there is one.
_STANDING = """
SELECT flotilla.ticket_state() AS ticket, t.status, t.attempt, t.result, t.failure, t.duration_ms
FROM (SELECT) AS one LEFT JOIN flotilla.agent_tasks AS t ON t.tenant_id = $1 AND t.task_id = $2
"""
# Answers the task. `done` is final, and a later try is never overwritten by an earlier one.
_WRITE = """
INSERT INTO flotilla.agent_tasks AS t (
    tenant_id, task_id, agent, session_id, run_id, status, attempt, entry_id, result, failure, finished_at, duration_ms
) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9::jsonb, $10::jsonb, clock_timestamp(), $11)
ON CONFLICT (tenant_id, task_id) DO UPDATE SET
    agent = excluded.agent, session_id = excluded.session_id, run_id = excluded.run_id, status = excluded.status,
    attempt = excluded.attempt, result = excluded.result, failure = excluded.failure,
    finished_at = excluded.finished_at, duration_ms = excluded.duration_ms
WHERE t.status <> 'done' AND (excluded.status = 'done' OR t.attempt <= excluded.attempt)
RETURNING task_id
"""
_ACTIONS = """
INSERT INTO flotilla.agent_actions (tenant_id, agent_id, session_id, task_id, action_type, payload)
SELECT $1, $2, $3, $4, a.action_type, a.payload
FROM unnest($5::text[], $6::jsonb[]) WITH ORDINALITY AS a (action_type, payload, n) ORDER BY a.n
"""
_RESULT = "SELECT result FROM flotilla.agent_tasks WHERE task_id = $1 AND status = 'done'"


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """The stored answer to a task."""

    status: ReplyStatus
    attempt: int
    result: dict[str, Any] | None = None
    failure: Failure | None = None
    duration_ms: float = 0.0


class TaskOver(Exception):
    """Nobody waits for this try of the task any more: it is closed, or another ticket took the place of this one."""


class EffectFailed(Exception):
    """An effect that the author gave to `ctx.in_transaction` raised; nothing of the transaction stands."""


class _AnsweredAlready(Exception):
    """Rolls the transaction back."""


class Effects:
    """Reads and writes the answers of one agent."""

    def __init__(self, pool: Pool, agent: str) -> None:
        self._pool = pool
        self._agent = agent

    async def stored(self, task: AgentTask) -> Answer | None:
        """The answer to this try: success of any try, or the end of this one; None while it is open.

        Raises:
            TaskOver: there is none, and none is wanted.
            RetryLater: PostgreSQL is unavailable, or does not know the task (yet).
        """
        with _staying_pending(task):
            async with tenant_transaction(self._pool, task.tenant_id) as connection:
                row = await connection.fetchrow(_STANDING, task.tenant_id, task.task_id)
        assert row is not None  # noqa: S101 - the statement always gives one row
        answer = _answer(row)
        if answer is not None and (answer.status == "done" or answer.attempt >= task.attempt):
            return answer
        if row["ticket"] is None:
            raise RetryLater(f"task {task.task_id} is not on record: its row may have been lost, and is written again")
        if row["ticket"] != "open":
            raise TaskOver(f"task {task.task_id}, try {task.attempt}: {row['ticket']}")
        return None

    async def result_of(self, task: AgentTask, task_id: str) -> dict[str, Any] | None:
        """The stored result of another task of the same tenant.

        Raises:
            RetryLater: PostgreSQL is unavailable.
        """
        with _staying_pending(task):
            async with tenant_transaction(self._pool, task.tenant_id) as connection:
                found = await connection.fetchval(_RESULT, task_id)
        return None if found is None else msgspec.json.decode(found)

    async def commit(self, task: AgentTask, entry_id: str, outcome: Outcome) -> Answer:
        """Writes the outcome, or nothing if there is an answer already; returns the answer that stands.

        Raises:
            RetryLater: PostgreSQL is unavailable; the entry stays pending and the task runs again.
            TaskOver: no answer is wanted any more.
            EffectFailed: an effect of the author's did.
            NotFound: there is no such session to record in.
            Invalid, one of UNSTORABLE: a store refuses what the outcome holds.
        """
        try:
            with _staying_pending(task):
                async with tenant_transaction(self._pool, task.tenant_id) as connection:
                    await self._write(connection, task, entry_id, outcome)
        except _AnsweredAlready:
            stored = await self.stored(task)
            if stored is None:
                raise RetryLater(f"task {task.task_id} is being answered by another consumer") from None
            return stored
        except asyncpg.InsufficientPrivilegeError as error:
            raise TaskOver(f"task {task.task_id}, try {task.attempt}: {error}") from error
        return Answer(
            status=outcome.status,
            attempt=task.attempt,
            result=outcome.result,
            failure=outcome.failure,
            duration_ms=outcome.duration_ms,
        )

    async def _write(self, connection: Connection, task: AgentTask, entry_id: str, outcome: Outcome) -> None:
        written = await connection.fetchval(
            _WRITE,
            task.tenant_id,
            task.task_id,
            self._agent,
            task.session_id,
            task.run_id,
            outcome.status,
            task.attempt,
            entry_id,
            _jsonb(outcome.result),
            _jsonb(outcome.failure),
            outcome.duration_ms,
        )
        if written is None:
            raise _AnsweredAlready
        events = await _all_events(connection, task, outcome)
        await self._write_actions(connection, task, outcome, events)
        for effect in outcome.effects:
            await _made(effect, connection)
        if events:  # last: the session's row stays locked from here to the commit
            source = f"{AGENT_PREFIX}{self._agent}"
            await append(connection, task.tenant_id, task.session_id, events, source=source)

    async def _write_actions(
        self, connection: Connection, task: AgentTask, outcome: Outcome, events: list[AgentStateEvent]
    ) -> None:
        end: dict[str, object] = {"attempt": task.attempt, "duration_ms": outcome.duration_ms}
        if outcome.escaped:
            end["escaped"] = outcome.escaped
        actions: list[tuple[str, str]] = [(event.kind, to_json(event.data).decode()) for event in events]
        actions.append((f"task_{outcome.status}", json.dumps(end)))
        await connection.execute(
            _ACTIONS,
            task.tenant_id,
            self._agent,
            task.session_id,
            task.task_id,
            [kind for kind, _ in actions],
            [payload for _, payload in actions],
        )


async def _all_events(connection: Connection, task: AgentTask, outcome: Outcome) -> list[AgentStateEvent]:
    """What the outcome records, after the tool calls of killed tries that no outcome has recorded."""
    if not outcome.is_recorded:
        return []
    shown = {str(event.data["call_id"]) for event in outcome.events if event.kind == "tool_call"}
    return [*await unrecorded(connection, task, shown), *outcome.events]


async def _made(effect: Effect, connection: Connection) -> None:
    may_leave_state(connection)
    try:
        await effect(connection)
    except AWAY:
        raise
    except Exception as error:
        raise EffectFailed(f"{type(error).__name__}: {error}") from error


def _staying_pending(task: AgentTask) -> AbstractContextManager[None]:
    return retry_when_away(f"task {task.task_id} stays pending")


def _jsonb(value: object) -> str | None:
    return None if value is None else to_json(value).decode()


def _answer(row: asyncpg.Record) -> Answer | None:
    if row["status"] not in {"done", "failed", "cancelled"}:
        return None
    return Answer(
        status=row["status"],
        attempt=row["attempt"],
        result=None if row["result"] is None else msgspec.json.decode(row["result"]),
        failure=None if row["failure"] is None else msgspec.json.decode(row["failure"], type=Failure),
        duration_ms=row["duration_ms"] or 0.0,
    )
