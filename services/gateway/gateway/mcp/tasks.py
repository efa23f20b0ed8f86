"""The tasks extension (`io.modelcontextprotocol/tasks`, 2026-07-28): a call is a task of the protocol.

Its id is that of the task or run that it is. It is `input_required` while a workflow asks what the client's user may
answer, with the questions as forms that `tasks/update` answers. While other people have to decide it is `working`:
`input_required` would ask the client for a decision that is not its own. A call that failed is `completed`, with a
result that is an error: `failed` is for errors of the protocol, and a call has those before it becomes a task. Clients
poll: nobody is notified of changes (`notifications/tasks`).
"""

from typing import Any

from mcp import MCPError
from mcp.server.context import ServerRequestContext
from mcp.server.lowlevel import Server
from mcp_types import (
    INVALID_PARAMS,
    METHOD_NOT_FOUND,
    MISSING_REQUIRED_CLIENT_CAPABILITY,
    InputResponses,
    RequestParams,
)

from gateway.mcp.answers import call_tool_result, describe_what_call_waits_for
from gateway.mcp.calls import Call, cancel, find_call_by_id, is_over, wait_for_call
from gateway.mcp.door import TASKS, Door
from gateway.mcp.elicitation import answer_questions, input_requests, note_declined, questions_for_caller
from gateway.mcp.results import Json
from gateway.schemas.pipelines import Task
from gateway.schemas.runs import Run

POLL_MS = 2000
Context = ServerRequestContext[Any, Any]


class TaskParams(RequestParams):
    """Which task."""

    task_id: str


class UpdateParams(TaskParams):
    """What the client's user answers, by the keys of what was asked."""

    input_responses: InputResponses


def add_methods(server: Server[Any]) -> None:
    """Let `server` serve the extension's methods: `tasks/get`, `tasks/cancel`, `tasks/update`."""
    server.add_request_handler("tasks/get", TaskParams, _get)
    server.add_request_handler("tasks/cancel", TaskParams, _cancel)
    server.add_request_handler("tasks/update", UpdateParams, _update)


async def task_created_result(door: Door, call: Call, work: Task | Run) -> Json:
    """Return the `CreateTaskResult` of a call that is stored: what `tasks/get` says of it, without questions."""
    return {**await _task(door, call, work), "resultType": "task"}


async def _get(context: Context, params: TaskParams) -> Json:
    """Return the task as it is now: with its result once it is over, with what is asked of the client's user before."""
    door = _door(context)
    call = await _call(door, params)
    work = await wait_for_call(door, call)
    task = await _task(door, call, work)
    if not is_over(work) and (asked := await questions_for_caller(door, call)):
        return {**task, "status": "input_required", "inputRequests": input_requests(asked)}
    return task


async def _cancel(context: Context, params: TaskParams) -> Json:
    """Ask the task to stop, and acknowledge; one that has ended stays as it is."""
    door = _door(context)
    await cancel(door, await _call(door, params))
    return {}


async def _update(context: Context, params: UpdateParams) -> Json:
    """Answer the task's open questions, and acknowledge. Responses to what is not asked now are ignored."""
    door = _door(context)
    call = await _call(door, params)
    await note_declined(door, call, await answer_questions(door, call, params.input_responses))
    return {}


def _door(context: Context) -> Door:
    """Return the door of a request of the extension.

    Raises:
        MCPError: the protocol's version has no such method, or the client did not declare the extension.
    """
    door = Door.of(context)
    if not door.is_modern:
        raise MCPError(METHOD_NOT_FOUND, "tasks are an extension of protocol version 2026-07-28")
    if not door.takes_tasks:
        needed: Json = {"requiredCapabilities": {"extensions": {TASKS: {}}}}
        raise MCPError(MISSING_REQUIRED_CLIENT_CAPABILITY, "Missing required client capability", needed)
    return door


async def _call(door: Door, params: TaskParams) -> Call:
    """Return the caller's call of that id.

    Raises:
        MCPError: the caller made none.
    """
    call = await find_call_by_id(door, params.task_id)
    if call is None:
        raise MCPError(INVALID_PARAMS, "you have no task of this id")
    return call


async def _task(door: Door, call: Call, work: Task | Run) -> Json:
    """Return the extension's `Task`, with the result of one that is over."""
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
