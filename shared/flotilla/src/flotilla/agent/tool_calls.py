"""Calls of tools, stored before the tool runs and answered before the result is used.

A call is named by (tenant, task id, tool, hash of its arguments, n-th equal call). Each start of it is a row of its
own, so that the log can show what a killed process had begun. Who runs the tool holds a claim on that row; another that
wants the same call meanwhile (a redelivered task) waits for it. The first result that is stored is the call's result.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import structlog

from flotilla.agent.ports import IdentifiedToolCall, StartedToolCall, ToolCallEnd, ToolCallHistory
from flotilla.agent.recording import shorten_result, tool_call_data
from flotilla.contracts.envelope import to_json
from flotilla.contracts.json_types import JsonObject
from flotilla.contracts.session_events import AgentStateEvent, SessionEventKind, ToolResult
from flotilla.contracts.tasks import AgentTask
from flotilla.contracts.values import with_escaped_places
from flotilla.encryption.tables import TOOL_CALLS
from flotilla.postgres import (
    Connection,
    Pool,
    open_rows,
    retry_later_if_unavailable,
    seal_columns,
    tenant_transaction,
)
from flotilla.postgres.claims import CLAIM_S, keep_claim_renewed

NO_ANSWER_MESSAGE = "no answer: the process that ran it ended during the call; it may have had its effect"
_POLL_S = 0.2
log = structlog.get_logger(__name__)

# How often the call was begun, and how that went. The first result counts, no matter who stored it.
_SELECT_CALL_STARTS = """
SELECT start_no, call_id, session_id, outcome, result, escaped, recorded,
    outcome IS NULL AND expires_at > clock_timestamp() AS running,
    extract(epoch FROM finished_at - started_at) * 1000 AS duration_ms
FROM flotilla.tool_calls
WHERE tenant_id = $1 AND task_id = $2 AND tool = $3 AND args_hash = $4 AND occurrence = $5
ORDER BY (outcome IS NOT DISTINCT FROM 'returned') DESC, CASE outcome WHEN 'returned' THEN finished_at END,
    start_no DESC
"""
# Begins the call, unless somebody else has meanwhile.
_INSERT_CALL_START = """
INSERT INTO flotilla.tool_calls (tenant_id, task_id, tool, args_hash, occurrence, start_no, call_id, session_id, agent,
    called, approval_id, expires_at)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, clock_timestamp() + make_interval(secs => $12))
ON CONFLICT DO NOTHING RETURNING true
"""
_RENEW_CALL_CLAIM = """
UPDATE flotilla.tool_calls SET expires_at = clock_timestamp() + make_interval(secs => $7)
WHERE tenant_id = $1 AND task_id = $2 AND tool = $3 AND args_hash = $4 AND occurrence = $5 AND start_no = $6
"""
# One at a time, so that of two results one is the first.
_LOCK_CALL_STARTS = """
SELECT 1 FROM flotilla.tool_calls
WHERE tenant_id = $1 AND task_id = $2 AND tool = $3 AND args_hash = $4 AND occurrence = $5 AND start_no = 1 FOR UPDATE
"""
_STORE_CALL_END = """
UPDATE flotilla.tool_calls SET outcome = $7, result = $8, error = $9, escaped = $10, finished_at = clock_timestamp()
WHERE tenant_id = $1 AND task_id = $2 AND tool = $3 AND args_hash = $4 AND occurrence = $5 AND start_no = $6
"""
# Everything that the log does not show yet.
_MARK_CALLS_RECORDED = """
UPDATE flotilla.tool_calls SET recorded = true WHERE tenant_id = $1 AND task_id = $2 AND NOT recorded
RETURNING tool, call_id, session_id, called, agent, started_at, outcome, result, error, escaped,
    coalesce(extract(epoch FROM finished_at - started_at) * 1000, 0) AS duration_ms
"""


class PostgresToolCallStore:
    """The calls of one task, in PostgreSQL."""

    def __init__(self, pool: Pool, task: AgentTask, agent: str) -> None:
        self._pool = pool
        self._task = task
        self._agent = agent

    async def load_call_history(self, call: IdentifiedToolCall) -> ToolCallHistory:
        """What is known of the call, once nobody runs it.

        Raises:
            RetryLater: PostgreSQL is unavailable.
        """
        while True:
            rows = await self._fetch_in_own_transaction(_SELECT_CALL_STARTS, call)
            if not rows:
                return ToolCallHistory()
            if rows[0]["outcome"] == "returned":
                return ToolCallHistory(starts=len(rows), returned=_call_end_from_row(rows[0]))
            if not any(row["running"] for row in rows):
                return ToolCallHistory(starts=len(rows), is_unknown=rows[0]["outcome"] != "refused")
            await asyncio.sleep(_POLL_S)

    async def begin_call(
        self, call: IdentifiedToolCall, start_no: int, call_id: str, approval_id: str | None
    ) -> StartedToolCall | None:
        """Claim the call; None if somebody else has begun it meanwhile.

        Raises:
            RetryLater: PostgreSQL is unavailable.
        """
        called = to_json(with_escaped_places(tool_call_data(call, call_id, self._agent))).decode()
        names = (*self._call_key(call), start_no, call_id, self._task.session_id, self._agent)

        async def begin(connection: Connection) -> list[dict[str, Any]]:
            stored = await self._encrypt_columns(connection, call_id, called=called)
            rows = await connection.fetch(_INSERT_CALL_START, *names, stored["called"], approval_id, CLAIM_S)
            return [dict(row) for row in rows]

        begun = await self._run_in_transaction(begin)
        return StartedToolCall(call=call, start_no=start_no, call_id=call_id) if begun else None

    @asynccontextmanager
    async def hold_call_claim(self, begun: StartedToolCall) -> AsyncIterator[None]:
        """Keep the claim while the tool runs."""

        async def renew() -> None:
            await self._fetch_in_own_transaction(_RENEW_CALL_CLAIM, begun.call, begun.start_no, CLAIM_S)

        async with keep_claim_renewed(renew, of=f"tool {begun.call.tool} of task {self._task.task_id}"):
            yield

    async def store_call_end(self, begun: StartedToolCall, ended: ToolCallEnd) -> ToolCallEnd:
        """Store how it ended; give the end that counts, which is another's if that was stored first.

        Raises:
            RetryLater: PostgreSQL is unavailable.
        """
        result = None if ended.outcome != "returned" else to_json(ended.result).decode()

        async def store(connection: Connection) -> list[dict[str, Any]]:
            await connection.execute(_LOCK_CALL_STARTS, *self._call_key(begun.call))
            stored = await self._encrypt_columns(connection, begun.call_id, result=result, error=ended.error)
            end = (begun.start_no, ended.outcome, stored["result"], stored["error"], ended.escaped)
            await connection.execute(_STORE_CALL_END, *self._call_key(begun.call), *end)
            return await self._fetch_decrypted_rows(connection, _SELECT_CALL_STARTS, begun.call)

        rows = await self._run_in_transaction(store)
        return _call_end_from_row(rows[0]) if rows[0]["outcome"] == "returned" else ended

    async def _encrypt_columns(
        self, connection: Connection, call_id: str, **values: str | None
    ) -> dict[str, str | None]:
        task = self._task
        return await seal_columns(connection, task.tenant_id, task.session_id, TOOL_CALLS, call_id, **values)

    async def _fetch_decrypted_rows(
        self, connection: Connection, statement: str, call: IdentifiedToolCall, *arguments: object
    ) -> list[dict[str, Any]]:
        rows = await connection.fetch(statement, *self._call_key(call), *arguments)
        return await open_rows(connection, self._task.tenant_id, TOOL_CALLS, rows)

    async def _fetch_in_own_transaction(
        self, statement: str, call: IdentifiedToolCall, *arguments: object
    ) -> list[dict[str, Any]]:
        return await self._run_in_transaction(
            lambda connection: self._fetch_decrypted_rows(connection, statement, call, *arguments)
        )

    async def _run_in_transaction(
        self, work: Callable[[Connection], Awaitable[list[dict[str, Any]]]]
    ) -> list[dict[str, Any]]:
        with retry_later_if_unavailable():
            async with tenant_transaction(self._pool, self._task.tenant_id) as connection:
                return await work(connection)

    def _call_key(self, call: IdentifiedToolCall) -> tuple[str, str, str, bytes, int]:
        return self._task.tenant_id, self._task.task_id, call.tool, call.args_hash, call.occurrence


async def take_unrecorded_call_events(
    connection: Connection, task: AgentTask, shown: set[str]
) -> list[AgentStateEvent]:
    """The events of the calls that no try of the task has recorded yet, but for those with a call id in `shown`. From
    now on they are recorded: the caller's transaction appends them."""
    found = await connection.fetch(_MARK_CALLS_RECORDED, task.tenant_id, task.task_id)
    rows = await open_rows(connection, task.tenant_id, TOOL_CALLS, found)
    hidden = sorted((row for row in rows if row["call_id"] not in shown), key=lambda row: row["started_at"])
    return [event for row in hidden for event in _events_of_call(task, row)]


def _events_of_call(task: AgentTask, row: dict[str, Any]) -> list[AgentStateEvent]:
    ok = row["outcome"] == "returned"
    answered = ToolResult(
        tool=row["tool"],
        call_id=row["call_id"],
        agent=row["agent"],
        ok=ok,
        duration_ms=round(float(row["duration_ms"]), 3),
        result=shorten_result(msgspec.json.decode(row["result"])) if ok else None,
        error=None if ok else row["error"] or NO_ANSWER_MESSAGE,
    )
    places = [f"/result{place}" for place in row["escaped"]]
    return [
        _make_session_event(task, "tool_call", msgspec.json.decode(row["called"])),
        _make_session_event(task, "tool_result", with_escaped_places(answered, places)),
    ]


def _make_session_event(task: AgentTask, kind: SessionEventKind, data: JsonObject) -> AgentStateEvent:
    return AgentStateEvent(
        kind=kind,
        data=data,
        source=f"/agents/{task.agent}",
        run_id=task.run_id,
        task_id=task.task_id,
        subject_key=task.user_id,
    )


def _call_end_from_row(row: dict[str, Any]) -> ToolCallEnd:
    return ToolCallEnd(
        outcome="returned",
        call_id=row["call_id"],
        recorded=row["recorded"],
        result=msgspec.json.decode(row["result"]),
        escaped=list(row["escaped"]),
        duration_ms=round(float(row["duration_ms"]), 3),
    )
