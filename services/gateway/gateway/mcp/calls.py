"""Calls: each a task or a run of the fleet, in the caller's name.

A call that is sent again is continued, not repeated. An equal call of the same caller (tool, arguments, session, and a
key that the client may choose) finds the one that is open; for an hour it gets the answer of one that nobody was sent,
or for which the client was asked to call again. Otherwise it is a new call; with such a key never.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, TypeAlias

import asyncpg
from mcp import MCPError
from mcp_types import INVALID_PARAMS

from flotilla.contracts.approvals import canonical_content
from flotilla.contracts.errors import Conflict, Forbidden, Invalid
from flotilla.contracts.ids import new_id
from flotilla.contracts.mcp import MCP_AGENT
from flotilla.contracts.names import QUESTION, is_valid_id
from flotilla.contracts.requests import OPEN_RUN_STATUSES
from flotilla.postgres import Connection, tenant_transaction
from gateway.auth.principal import OPERATORS
from gateway.idempotency import IdempotencyClaim
from gateway.live.admission import StreamAccessCheck, stream_access_check
from gateway.mcp.catalog import CallableTool
from gateway.mcp.door import Door
from gateway.mcp.results import Json
from gateway.pipelines import starting as pipelines
from gateway.pipelines.records import get_task
from gateway.runs import cancelling, starting
from gateway.runs.cited import get_readable_run
from gateway.runs.records import load_followed_run
from gateway.runs.waiting import wait_for_finished_run, wait_for_finished_task
from gateway.schemas.pipelines import Task, TaskBody
from gateway.schemas.runs import Run, RunRequest

Kind: TypeAlias = Literal["task", "run"]
SESSION_META = "io.flotilla/session"
"""The session that records the call; by default one of its own."""
KEY_META = "io.flotilla/idempotency-key"
"""The same key: the same call, as long as its row is kept: 7 days, or what the tenant's retention says."""
ANSWERS_KEPT = "1 hour"
_INSERT_MCP_CALLS = """
INSERT INTO flotilla.mcp_calls (tenant_id, call_id, is_run, session_id, principal, digest, request)
VALUES ($1, $2, $3, $4, $5, $6, $7)
"""
# A task is over with its last hop's answer, as for those who read it: its row is closed a moment later.
_SELECT_LAST_MCP_CALLS = f"""
SELECT c.call_id, c.is_run, c.session_id, e.finished_at IS NULL
    OR ((c.is_to_repeat OR NOT c.is_answered) AND e.finished_at > now() - interval '{ANSWERS_KEPT}') AS continues
FROM flotilla.mcp_calls AS c
LEFT JOIN flotilla.pipelines AS t ON NOT c.is_run AND t.tenant_id = c.tenant_id AND t.task_id = c.call_id
LEFT JOIN flotilla.agent_tasks AS a
    ON a.tenant_id = t.tenant_id AND a.task_id = t.result_task_id AND a.status = 'done'
LEFT JOIN flotilla.runs AS r ON c.is_run AND r.tenant_id = c.tenant_id AND r.run_id = c.call_id
CROSS JOIN LATERAL (SELECT coalesce(t.finished_at, a.finished_at, r.finished_at) AS finished_at) AS e
WHERE c.tenant_id = $1 AND c.principal = $2 AND c.digest = $3 ORDER BY c.created_at DESC LIMIT 1
"""  # noqa: S608 - a constant
_OF_REQUEST = """
SELECT call_id, is_run, session_id FROM flotilla.mcp_calls
WHERE tenant_id = $1 AND principal = $2 AND request = $3 ORDER BY created_at DESC LIMIT 1
"""
_SELECT_MCP_CALLS = """
SELECT call_id, is_run, session_id FROM flotilla.mcp_calls WHERE tenant_id = $1 AND principal = $2 AND call_id = $3
"""
_OF_STATE = """
SELECT call_id, is_run, session_id FROM flotilla.mcp_calls
WHERE tenant_id = $1 AND principal = $2 AND call_id = $3 AND digest = $4
"""
_NAME_REQUEST = "UPDATE flotilla.mcp_calls SET request = $3 WHERE tenant_id = $1 AND call_id = $2"
_NOTE_ANSWERED = "UPDATE flotilla.mcp_calls SET is_answered = true WHERE tenant_id = $1 AND call_id = $2"
_NOTE_TO_REPEAT = "UPDATE flotilla.mcp_calls SET is_to_repeat = true WHERE tenant_id = $1 AND call_id = $2"


@dataclass(frozen=True, slots=True)
class Call:
    """A call that was started."""

    call_id: str
    """Of the task or run that it is."""
    kind: Kind
    session_id: str


async def begin_or_continue_call(
    door: Door,
    tool: CallableTool,
    arguments: Json,
    meta: Mapping[str, Any],
    request_id: object,
    *,
    state: str | None = None,
) -> Call:
    """Start the call, or continue the equal one; with `state` the one that returned that state.

    Raises:
        MCPError: the caller made no equal call that returned `state`.
        FlotillaError, HTTPException, RequestValidationError, ValidationError: as the API's routes that start tasks and
            runs.
    """
    if not door.caller.roles & OPERATORS:
        raise Forbidden("calling a tool takes the role admin or operator")
    key, session_id = _text(meta, KEY_META), _text(meta, SESSION_META)
    digest = _digest(tool, {"arguments": arguments, "session": session_id, "key": key})
    name = door.request_name(request_id)
    if state is not None:
        return await _call_of_state(door, state, digest)
    last, continues = await _last(door, digest)
    if last is not None and (continues or key is not None):
        if name is not None:
            await _note(door, _NAME_REQUEST, last, name)
        return last
    claim = IdempotencyClaim(
        door.caller, "POST /mcp", f"{digest.hex()}-{last.call_id if last else 'first'}", digest.hex()
    )
    kind: Kind = "run" if tool.workflow else "task"
    session_id = session_id or f"mcp-{new_id()}"

    async def note(connection: Connection, call_id: str) -> None:
        place = (door.caller.tenant_id, call_id, kind == "run", session_id, door.caller.idempotency_scope)
        await connection.execute(_INSERT_MCP_CALLS, *place, digest, name)

    if tool.workflow:
        run = await starting.start_or_find_run(
            door.services, session_id, _run_request(tool, arguments), claim, note=note
        )
        return Call(run.run_id, kind, run.session_id)
    task = await pipelines.start_or_find_task(door.services, _task_body(tool, arguments, session_id), claim, note=note)
    return Call(task.task_id, kind, task.session_id)


def _digest(tool: CallableTool, what: Json) -> bytes:
    return hashlib.sha256(canonical_content(tool.target, what).encode()).digest()


async def _call_of_state(door: Door, state: str, digest: bytes) -> Call:
    call = await _found(door, _OF_STATE, state, digest) if is_valid_id(state) else None
    if call is None:
        raise MCPError(INVALID_PARAMS, "requestState is none that an equal call of yours returned")
    return call


async def _last(door: Door, digest: bytes) -> tuple[Call | None, bool]:
    """Return the newest equal call of the caller, and whether this one is no new one."""
    caller = door.caller
    async with tenant_transaction(door.services.pool, caller.tenant_id) as connection:
        row = await connection.fetchrow(_SELECT_LAST_MCP_CALLS, caller.tenant_id, caller.idempotency_scope, digest)
    if row is None:
        return None, False
    return _call(row), row["continues"]


def _run_request(tool: CallableTool, arguments: Json) -> RunRequest:
    if tool.workflow != QUESTION:
        return RunRequest(workflow=tool.workflow, input=arguments)
    if set(arguments) != {"query"}:
        raise Invalid("a question is one argument, query")
    return RunRequest.model_validate(arguments)


def _task_body(tool: CallableTool, arguments: Json, session_id: str) -> TaskBody:
    task_input: Json = {"tool": tool.upstream, "arguments": arguments} if tool.upstream else arguments
    return TaskBody(steps=[tool.agent or MCP_AGENT], input=task_input, session_id=session_id)


def call_access_check(door: Door, call: Call) -> StreamAccessCheck:
    """Return what admits the caller to the call's outcome as long as it waits for it."""
    read = get_task if call.kind == "task" else load_followed_run
    place = (door.services.pool, door.caller.tenant_id, call.call_id)
    return stream_access_check(door.request, door.caller, partial(read, *place))


async def wait_for_call(
    door: Door, call: Call, within_s: float = 0, admission: StreamAccessCheck | None = None
) -> Task | Run:
    """Return the task or run as it stands, once it is over, at the latest after `within_s` seconds.

    Raises:
        Forbidden: `admission` says that the caller may not read it any more.
    """
    services, tenant_id = door.services, door.caller.tenant_id
    if within_s > 0:
        services.streams.check_slot_free(tenant_id)
    if call.kind == "task":
        return await wait_for_finished_task(services, tenant_id, call.call_id, within_s, admission)
    run = await wait_for_finished_run(services, tenant_id, call.call_id, within_s, admission) if within_s > 0 else None
    return run or await get_readable_run(services.pool, tenant_id, call.call_id)


def is_over(work: Task | Run) -> bool:
    """Whether nothing more will come of it."""
    if isinstance(work, Run):
        return work.status not in OPEN_RUN_STATUSES
    return work.finished_at is not None


async def find_call_by_id(door: Door, call_id: str) -> Call | None:
    """Return one of the caller's calls; None if it made none of that id."""
    return await _found(door, _SELECT_MCP_CALLS, call_id) if is_valid_id(call_id) else None


async def find_call_by_request(door: Door, request_id: object) -> Call | None:
    """Return the call that a request of the client's session is; None if it is none."""
    name = door.request_name(request_id)
    return await _found(door, _OF_REQUEST, name) if name is not None else None


async def _found(door: Door, query: str, *values: object) -> Call | None:
    caller = door.caller
    async with tenant_transaction(door.services.pool, caller.tenant_id) as connection:
        row = await connection.fetchrow(query, caller.tenant_id, caller.idempotency_scope, *values)
    return None if row is None else _call(row)


def _call(row: asyncpg.Record) -> Call:
    return Call(row["call_id"], "run" if row["is_run"] else "task", row["session_id"])


async def cancel(door: Door, call: Call) -> None:
    """Ask the call to stop; nothing happens where it has ended.

    Raises:
        Forbidden: the caller may not start or stop anything.
    """
    if not door.caller.roles & OPERATORS:
        raise Forbidden("cancelling a call takes the role admin or operator")
    try:
        if call.kind == "run":
            await cancelling.cancel_run_and_agents(door.services, door.caller, call.call_id)
        else:
            await pipelines.cancel_task_and_agents(door.services, door.caller, call.call_id)
    except Conflict:
        return  # it ended otherwise


async def note_answered(door: Door, call: Call) -> None:
    """Note that the client was sent the answer, or the call's id: an equal call is a new one once this one is over."""
    await _note(door, _NOTE_ANSWERED, call)


async def note_to_repeat(door: Door, call: Call) -> None:
    """Note that the client was asked to call again."""
    await _note(door, _NOTE_TO_REPEAT, call)


async def _note(door: Door, statement: str, call: Call, *values: str) -> None:
    async with tenant_transaction(door.services.pool, door.caller.tenant_id) as connection:
        await connection.execute(statement, door.caller.tenant_id, call.call_id, *values)


def _text(meta: Mapping[str, Any], name: str) -> str | None:
    value = meta.get(name)
    if value is None:
        return None
    if not isinstance(value, str) or not is_valid_id(value):
        raise Invalid(f"_meta {name} takes letters, digits and . _ : -, at most 128")
    return value
