"""The MCP server: any replica answers any request, since what has to last is rows and runs."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from http import HTTPStatus
from typing import Any

import structlog
from fastapi.exceptions import RequestValidationError
from mcp import MCPError
from mcp.server.context import ServerRequestContext
from mcp.server.lowlevel import Server
from mcp_types import (
    INTERNAL_ERROR,
    INVALID_PARAMS,
    CallToolRequestParams,
    ListToolsResult,
    PaginatedRequestParams,
    Tool,
)
from pydantic import ValidationError

from gateway.mcp import tasks
from gateway.mcp.answers import call_tool_result, describe_what_call_waits_for
from gateway.mcp.calls import (
    ANSWERS_KEPT,
    Call,
    begin_or_continue_call,
    call_access_check,
    cancel,
    find_call_by_request,
    is_over,
    note_answered,
    note_to_repeat,
    wait_for_call,
)
from gateway.mcp.catalog import find_callable, list_callable_tools
from gateway.mcp.completions import add_completions
from gateway.mcp.door import TASKS, Door
from gateway.mcp.elicitation import answer_questions, input_required_result, questions_for_caller
from gateway.mcp.prompts import add_prompts
from gateway.mcp.resources import add_resources
from gateway.mcp.results import Json, failure, text_result
from gateway.problems import problem_from_error

TASK_AFTER_S = 2.0
"""How long a client that knows tasks waits before its call becomes one."""
PROGRESS_EVERY_S = 5.0
LOOK_FOR_QUESTIONS_S = 1.0
PAGE = 100
_INSTRUCTIONS = """Tools of a fleet of agents, under governance: each call is recorded, and policy may ask people before
it has an effect. A result that says "waiting" is no failure: call again with the same arguments, and you get the answer
of the same call."""
log = structlog.get_logger(__name__)
Context = ServerRequestContext[Any, Any]


def make_server(version: str) -> Server[Any]:
    """Return the server; it keeps nothing."""
    server: Server[Any] = Server(
        "flotilla",
        version=version,
        title="Flotilla",
        instructions=_INSTRUCTIONS,
        get_tool_input_schema=_no_headers,
        on_list_tools=_list_tools,
        on_call_tool=_call_tool,  # type: ignore[arg-type]  # the SDK serializes dictionaries, too
    )
    tasks.add_methods(server)
    add_resources(server)
    add_prompts(server)
    add_completions(server)
    server.extensions[TASKS] = {}
    return server


def _no_headers(_tool: str) -> None:
    """No tool's arguments are repeated in headers."""


async def _list_tools(context: Context, params: PaginatedRequestParams | None) -> ListToolsResult:
    door = Door.of(context)
    tools: dict[str, Tool] = {name: one.tool() for name, one in door.reads().items()}
    tools |= {name: one.tool() for name, one in (await list_callable_tools(door)).items()}
    after = params.cursor if params else None
    names = sorted(name for name in tools if after is None or name > after)
    page = names[:PAGE]
    cursor = page[-1] if len(names) > PAGE else None
    return ListToolsResult(tools=[tools[name] for name in page], next_cursor=cursor)


async def _call_tool(context: Context, params: CallToolRequestParams) -> Json:
    try:
        return await _called(context, params)
    except MCPError:
        raise
    except ValidationError as error:
        return failure(problem_from_error(RequestValidationError(_located(error))).detail)
    except Exception as error:
        problem = problem_from_error(error)
        if problem.status < HTTPStatus.INTERNAL_SERVER_ERROR or problem.headers:
            return failure(problem.detail, {"status": problem.status, "code": problem.code})
        log.exception("mcp_call_failed", tool=params.name)
        raise MCPError(INTERNAL_ERROR, problem.detail) from error


def _located(error: ValidationError) -> list[Any]:
    return [{**one, "loc": ("arguments", *one["loc"])} for one in error.errors(include_url=False)]


async def _called(context: Context, params: CallToolRequestParams) -> Json:
    door = Door.of(context)
    arguments: Json = dict(params.arguments or {})
    if (read := door.reads().get(params.name)) is not None:
        return await read.call(door.request, arguments)
    tool = await find_callable(door, params.name)
    if tool is None:
        raise MCPError(INVALID_PARAMS, f"no tool {params.name[:200]}: tools/list names them")
    call = await begin_or_continue_call(
        door, tool, arguments, dict(context.meta or {}), context.request_id, state=params.request_state
    )
    async with _cancelling(door, call):
        declined = await answer_questions(door, call, params.input_responses or {})
        return await _answered(context, door, call, declined)


async def _answered(context: Context, door: Door, call: Call, declined: set[str]) -> Json:
    """Return the call's result, once it is over; else what the client's user is asked and has not declined, a task, or
    the request to call again."""
    loop = asyncio.get_running_loop()
    started = loop.time()
    limit_s = TASK_AFTER_S if door.takes_tasks else door.services.mcp_wait_s
    look_s = LOOK_FOR_QUESTIONS_S if door.takes_forms else PROGRESS_EVERY_S
    next_progress = started + PROGRESS_EVERY_S
    admission = call_access_check(door, call)
    while True:
        left_s = started + limit_s - loop.time()
        work = await wait_for_call(door, call, max(0.0, min(left_s, look_s)), admission)
        if is_over(work):
            await note_answered(door, call)
            return call_tool_result(work)
        if asked := await questions_for_caller(door, call, declined):
            return input_required_result(call, asked)
        if left_s <= 0 or door.services.stopping.is_set():
            break
        if loop.time() >= next_progress:
            why, _ = await describe_what_call_waits_for(door, call)
            await context.session.report_progress(loop.time() - started, message=why)
            next_progress += PROGRESS_EVERY_S
    if door.takes_tasks:
        await note_answered(door, call)
        return await tasks.task_created_result(door, call, work)
    return await _to_repeat(door, call)


async def _to_repeat(door: Door, call: Call) -> Json:
    await note_to_repeat(door, call)
    why, data = await describe_what_call_waits_for(door, call)
    text = (
        f"Waiting. {why} Call again with the same arguments: the call is continued, not repeated, and its answer is "
        f"kept for {ANSWERS_KEPT}."
    )
    return text_result(text, data)


@asynccontextmanager
async def _cancelling(door: Door, call: Call) -> AsyncIterator[None]:
    """Cancel the call where the client closes the request's answer, which is how clients of today's protocol cancel."""
    try:
        yield
    except asyncio.CancelledError:
        if door.is_modern and not door.services.stopping.is_set():
            await asyncio.shield(asyncio.ensure_future(_cancel(door, call)))
        raise


async def cancel_request(door: Door, request_id: object) -> None:
    """Cancel the call that a request of the client's session started, on whatever replica."""
    call = await find_call_by_request(door, request_id)
    if call is not None:
        await _cancel(door, call)


async def _cancel(door: Door, call: Call) -> None:
    try:
        await cancel(door, call)
    except Exception as error:  # noqa: BLE001 - nobody waits for the answer
        log.warning("mcp_call_not_cancelled", call_id=call.call_id, error=str(error))
