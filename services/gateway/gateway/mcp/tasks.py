"""The tasks extension (`io.modelcontextprotocol/tasks`, 2026-07-28): a call is a task of the protocol.

Its id is that of the task or run that it is. While people have to decide it is `working`: `input_required` would ask
the client for a decision that is not its own."""

from typing import Any

from mcp import MCPError
from mcp.server.context import ServerRequestContext
from mcp.server.lowlevel import Server
from mcp_types import INVALID_PARAMS, METHOD_NOT_FOUND, MISSING_REQUIRED_CLIENT_CAPABILITY, RequestParams

from gateway.mcp.answers import call_tool_result, describe_what_call_waits_for
from gateway.mcp.calls import Call, cancel, find_call_by_id, is_over, wait_for_call
from gateway.mcp.door import TASKS, Door
from gateway.mcp.results import Json
from gateway.schemas.pipelines import Task
from gateway.schemas.runs import Run

POLL_MS = 2000
Context = ServerRequestContext[Any, Any]


class TaskParams(RequestParams):
    """Which task."""

    task_id: str


def add_methods(server: Server[Any]) -> None:
    """Let `server` serve the extension's methods."""
    server.add_request_handler("tasks/get", TaskParams, _get)
    server.add_request_handler("tasks/cancel", TaskParams, _cancel)
    server.add_request_handler("tasks/update", TaskParams, _update)


async def task_created_result(door: Door, call: Call, work: Task | Run) -> Json:
    """Return the `CreateTaskResult` of a call that is stored and not over."""
    return {"resultType": "task", **await _task(door, call, work)}


async def _get(context: Context, params: TaskParams) -> Json:
    door = _door(context)
    call = await _call(door, params)
    return await _task(door, call, await wait_for_call(door, call))


async def _cancel(context: Context, params: TaskParams) -> Json:
    door = _door(context)
    await cancel(door, await _call(door, params))
    return {}


async def _update(context: Context, params: TaskParams) -> Json:
    """Acknowledge: nothing is ever asked of the client, so there is nothing that its answers could be to."""
    await _call(_door(context), params)
    return {}


def _door(context: Context) -> Door:
    door = Door.of(context)
    if not door.is_modern:
        raise MCPError(METHOD_NOT_FOUND, "tasks are an extension of protocol version 2026-07-28")
    if not door.takes_tasks:
        needed: Json = {"requiredCapabilities": {"extensions": {TASKS: {}}}}
        raise MCPError(MISSING_REQUIRED_CLIENT_CAPABILITY, "Missing required client capability", needed)
    return door


async def _call(door: Door, params: TaskParams) -> Call:
    call = await find_call_by_id(door, params.task_id)
    if call is None:
        raise MCPError(INVALID_PARAMS, "you have no task of this id")
    return call


async def _task(door: Door, call: Call, work: Task | Run) -> Json:
    changed = work.finished_at or (work.started_at if isinstance(work, Run) else None) or work.created_at
    task: Json = {
        "taskId": call.call_id,
        "status": "working",
        "createdAt": work.created_at.isoformat(),
        "lastUpdatedAt": changed.isoformat(),
        "ttlMs": None,
        "pollIntervalMs": POLL_MS,
    }
    if not is_over(work):
        why, _ = await describe_what_call_waits_for(door, call)
        return {**task, "statusMessage": why}
    if work.status == "cancelled":
        return {**task, "status": "cancelled", "statusMessage": "it was cancelled"}
    return {**task, "status": "completed", "result": call_tool_result(work)}
