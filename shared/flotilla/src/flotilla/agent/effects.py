"""The one transaction in which a task becomes done: its row, its actions, the author's effects, its events.

The row in `flotilla.agent_tasks` is the idempotency key. The second one finds it done, rolls back what it was
about to write, and answers with what is stored.
"""

import json
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Any

import asyncpg
import msgspec

from flotilla.agent.context import Effect
from flotilla.agent.execution import FunctionOutcome
from flotilla.agent.ports import IdentifiedToolCall, ToolCallEnd
from flotilla.agent.tool_calls import take_unrecorded_call_events
from flotilla.contracts.envelope import from_builtins, to_json
from flotilla.contracts.errors import RetryLater
from flotilla.contracts.event_rules import AGENT_PREFIX
from flotilla.contracts.session_events import AgentStateEvent
from flotilla.contracts.tasks import AgentTask, Failure, ReplyStatus
from flotilla.encryption import Cipher, is_sealed, sealed_columns, sealed_value
from flotilla.encryption.tables import AGENT_ACTIONS, AGENT_TASKS, TOOL_CALLS
from flotilla.outbox import append, prepare_events, session_not_found
from flotilla.postgres import (
    AWAY,
    Connection,
    Pool,
    open_stored_row,
    reset_session_after_use,
    retry_later_if_unavailable,
    session_cipher,
    tenant_transaction,
    writing_cipher,
)

# The outcome of the task's ticket, the answer to the task, if there is one, and the result that its input refers to.
_TAKE_TASK = "SELECT * FROM flotilla.take_task($1, $2, $3, $4, $5)"
# Answers the held task, with what goes with an answer or alone.
_FINISH_TASK = "SELECT flotilla.finish_task($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15)"
# The same for a call that the tool gateway makes at once, with what its tool returned.
_END_CALL = "SELECT flotilla.end_call_at_once($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15)"
_ANSWER_TASK = "SELECT flotilla.answer_task($1, $2, $3, $4, $5)"
_INSERT_AGENT_ACTIONS = """
INSERT INTO flotilla.agent_actions (tenant_id, agent_id, session_id, task_id, action_type, payload)
SELECT $1, $2, $3, $4, a.action_type, a.payload
FROM unnest($5::text[], $6::jsonb[]) WITH ORDINALITY AS a (action_type, payload, n) ORDER BY a.n
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredAnswer:
    """The answer to a task, as it is stored: encrypted, if the session has a key."""

    status: ReplyStatus
    attempt: int
    result: dict[str, Any] | None = None
    failure: Failure | None = None
    duration_ms: float = 0.0


@dataclass(frozen=True, slots=True)
class ReceivedTask:
    """A task as it stands when it reaches its agent."""

    answer: StoredAnswer | None
    """To this try: success of any try, or the end of this one; None while it is open."""
    input: dict[str, Any] | None
    """The stored result that the task's input refers to, if it is there."""


class TaskNoLongerOpen(Exception):
    """Nobody waits for this try of the task any more: it is closed, or another ticket took the place of this one."""


class EffectFailed(Exception):
    """An effect that the author gave to `ctx.in_transaction` raised; nothing of the transaction stands."""


class _AnsweredAlready(Exception):
    """Rolls the transaction back."""


class TaskAnswerStore:
    """Reads and writes the answers of one agent."""

    def __init__(self, pool: Pool, agent: str) -> None:
        self._pool = pool
        self._agent = agent
        self._source = f"{AGENT_PREFIX}{agent}"

    async def load_received_task(self, task: AgentTask) -> ReceivedTask:
        """Look up what is on record about `task`.

        Raises:
            TaskNoLongerOpen: there is no answer, and none is wanted.
            RetryLater: PostgreSQL is unavailable, or does not know the task (yet).
        """
        with _retry_task_if_unavailable(task):
            row = await self._pool.fetchrow(_TAKE_TASK, *_encode_task_proof(task), task.input_from)
        assert row is not None  # noqa: S101 - the statement always returns one row
        answer = _answer_from_row(row)
        if answer is None or (answer.status != "done" and answer.attempt < task.attempt):
            _check_ticket(task, row["ticket"])
            answer = None
        return ReceivedTask(answer, await self._load_referenced_result(task, row["input"]))

    async def _load_referenced_result(self, task: AgentTask, result: str | None) -> dict[str, Any] | None:
        """The result that the task's input refers to."""
        if result is None:
            return None
        row = {"task_id": task.input_from, "session_id": task.session_id, "result": result}
        opened = await open_stored_row(self._pool, task.tenant_id, AGENT_TASKS, row)
        return msgspec.json.decode(opened["result"], type=dict[str, Any])

    async def commit_outcome(self, task: AgentTask, entry_id: str, outcome: FunctionOutcome) -> StoredAnswer:
        """Writes the outcome, or nothing if there is an answer already; returns the answer that stands.

        Raises:
            RetryLater: PostgreSQL is unavailable; the entry stays pending and the task runs again.
            TaskNoLongerOpen: no answer is wanted any more.
            EffectFailed: an effect of the author's did.
            NotFound: there is no such session to record in.
            Invalid, one of UNSTORABLE: a store refuses what the outcome holds.
        """
        try:
            with _retry_task_if_unavailable(task):
                stored = None if outcome.effects else await self._commit_in_one_round_trip(task, entry_id, outcome)
                if stored is None:
                    async with tenant_transaction(self._pool, task.tenant_id) as connection:
                        stored = await self._write_outcome(connection, task, entry_id, outcome)
        except _AnsweredAlready:
            earlier = (await self.load_received_task(task)).answer
            if earlier is None:
                raise RetryLater(f"task {task.task_id} is being answered by another consumer") from None
            return earlier
        except asyncpg.InsufficientPrivilegeError as error:
            raise TaskNoLongerOpen(
                f"task {task.task_id}, try {task.attempt}, is closed, so its answer is not wanted: {error}"
            ) from error
        return stored

    async def _commit_in_one_round_trip(
        self, task: AgentTask, entry_id: str, outcome: FunctionOutcome
    ) -> StoredAnswer | None:
        """Write the outcome in one round trip; None, and nothing is written, where earlier calls of tools are to be
        recorded with it."""
        events = outcome.events if outcome.is_recorded else []
        try:
            async with self._pool.acquire() as connection:
                cipher = await session_cipher(connection, task.tenant_id, task.session_id)
                written = _outcome_to_store(cipher, task, outcome)
                prepared = prepare_events(task.tenant_id, task.session_id, events, source=self._source, cipher=cipher)
                found = await connection.fetchval(
                    _FINISH_TASK,
                    *_encode_task_proof(task),
                    *written.sql_arguments(entry_id),
                    *_agent_action_rows(cipher, task, outcome, events),
                    *prepared.sql_arguments,
                )
        except asyncpg.NoDataFoundError as error:
            raise session_not_found(task.session_id) from error
        if found == "answered":
            raise _AnsweredAlready
        return written.answer if found == "done" else None

    async def commit_tool_call(
        self, task: AgentTask, call: IdentifiedToolCall, ended: ToolCallEnd, outcome: FunctionOutcome
    ) -> bool:
        """Store what `call`, for which the task is, returned, and the task's outcome, all or nothing. False where
        another try has answered meanwhile; then that try finds what the call returned.

        Raises:
            RetryLater: PostgreSQL is unavailable.
            Invalid: an event is too large.
        """
        events = outcome.events
        with _retry_task_if_unavailable(task):
            async with self._pool.acquire() as connection:
                cipher = await session_cipher(connection, task.tenant_id, task.session_id)
                prepared = prepare_events(task.tenant_id, task.session_id, events, source=self._source, cipher=cipher)
                returned = sealed_columns(cipher, TOOL_CALLS, ended.call_id, {"result": _to_jsonb(ended.result)})
                return bool(
                    await connection.fetchval(
                        _END_CALL,
                        task.tenant_id,
                        task.task_id,
                        task.secret,
                        call.tool,
                        call.args_hash,
                        returned["result"],
                        ended.escaped,
                        _outcome_to_store(cipher, task, outcome).result,
                        outcome.duration_ms,
                        *_agent_action_rows(cipher, task, outcome, events),
                        *prepared.sql_arguments,
                    )
                )

    async def _write_outcome(
        self, connection: Connection, task: AgentTask, entry_id: str, outcome: FunctionOutcome
    ) -> StoredAnswer:
        cipher = await writing_cipher(connection, task.tenant_id, task.session_id)
        written = _outcome_to_store(cipher, task, outcome)
        if not await connection.fetchval(_ANSWER_TASK, *written.sql_arguments(entry_id)):
            raise _AnsweredAlready
        events = await _outcome_and_unrecorded_events(connection, task, outcome)
        of_task = (task.tenant_id, self._agent, task.session_id, task.task_id)
        await connection.execute(_INSERT_AGENT_ACTIONS, *of_task, *_agent_action_rows(cipher, task, outcome, events))
        for effect in outcome.effects:
            await _run_author_effect(effect, connection)
        if events:  # last: the session's row stays locked from here to the commit
            await append(connection, task.tenant_id, task.session_id, events, source=self._source)
        return written.answer


@dataclass(frozen=True, slots=True)
class _StoredOutcome:
    """An outcome as it is stored."""

    answer: StoredAnswer
    result: str | None
    failure: str | None

    def sql_arguments(self, entry_id: str) -> tuple[str, str, str | None, str | None, float]:
        """The arguments of `flotilla.answer_task`."""
        return self.answer.status, entry_id, self.result, self.failure, self.answer.duration_ms


def _encode_task_proof(task: AgentTask) -> tuple[str, str, int, str]:
    """What shows that this process holds the task."""
    return task.tenant_id, task.task_id, task.attempt, task.secret or ""


def _outcome_to_store(cipher: Cipher | None, task: AgentTask, outcome: FunctionOutcome) -> _StoredOutcome:
    clear = {"result": _to_jsonb(outcome.result), "failure": _to_jsonb(outcome.failure)}
    stored = sealed_columns(cipher, AGENT_TASKS, task.task_id, clear)
    result, failure = outcome.result, outcome.failure
    if cipher is not None:
        result = None if stored["result"] is None else msgspec.json.decode(stored["result"])
        failure = failure and _without_message(failure)
    answer = StoredAnswer(
        status=outcome.status,
        attempt=task.attempt,
        result=result,
        failure=failure,
        duration_ms=outcome.duration_ms,
    )
    return _StoredOutcome(answer, stored["result"], stored["failure"])


def _without_message(failure: Failure) -> Failure:
    """What a reply says of a failure that is stored encrypted: the bridge reads the rest there."""
    return replace(failure, message="", approvals=[], calls=[])


def _agent_action_rows(
    cipher: Cipher | None, task: AgentTask, outcome: FunctionOutcome, events: list[AgentStateEvent]
) -> tuple[list[str], list[str]]:
    """The kinds and payloads of what the agent did, with the task's end."""
    end: dict[str, object] = {"attempt": task.attempt, "duration_ms": outcome.duration_ms}
    if outcome.escaped:
        end["escaped"] = outcome.escaped
    kinds = [*(event.kind for event in events), f"task_{outcome.status}"]
    place = AGENT_ACTIONS.place("payload", task.task_id)
    payloads = [sealed_value(cipher, event.data, place) for event in events]
    return kinds, [*(to_json(payload).decode() for payload in payloads), json.dumps(end)]


def _check_ticket(task: AgentTask, ticket: str | None) -> None:
    if ticket is None:
        raise RetryLater(f"task {task.task_id} is not on record: its row may have been lost, and is written again")
    if ticket != "open":
        raise TaskNoLongerOpen(
            f"task {task.task_id}, try {task.attempt}, is closed, so its answer is not wanted: {ticket}"
        )


async def _outcome_and_unrecorded_events(
    connection: Connection, task: AgentTask, outcome: FunctionOutcome
) -> list[AgentStateEvent]:
    """What the outcome records, after the tool calls of killed tries that no outcome has recorded."""
    if not outcome.is_recorded:
        return []
    shown = {str(event.data["call_id"]) for event in outcome.events if event.kind == "tool_call"}
    return [*await take_unrecorded_call_events(connection, task, shown), *outcome.events]


async def _run_author_effect(effect: Effect, connection: Connection) -> None:
    reset_session_after_use(connection)
    try:
        await effect(connection)
    except AWAY:
        raise
    except Exception as error:
        raise EffectFailed(f"{type(error).__name__}: {error}") from error


def _retry_task_if_unavailable(task: AgentTask) -> AbstractContextManager[None]:
    return retry_later_if_unavailable(f"task {task.task_id} stays pending")


def _decode_failure(stored: str) -> Failure:
    """A stored failure; of an encrypted one what is clear."""
    found = msgspec.json.decode(stored, type=dict[str, Any])
    hidden = {name for name in ("message", "approvals", "calls") if is_sealed(found.get(name))}
    clear: dict[str, Any] = {"message": "", **{name: value for name, value in found.items() if name not in hidden}}
    return from_builtins(clear, Failure)


def _to_jsonb(value: object) -> str | None:
    return None if value is None else to_json(value).decode()


def _answer_from_row(row: asyncpg.Record) -> StoredAnswer | None:
    if row["status"] not in {"done", "failed", "cancelled"}:
        return None
    return StoredAnswer(
        status=row["status"],
        attempt=row["attempt"],
        result=None if row["result"] is None else msgspec.json.decode(row["result"]),
        failure=None if row["failure"] is None else _decode_failure(row["failure"]),
        duration_ms=row["duration_ms"] or 0.0,
    )
