"""The tool gateway's HTTP: one route, for agents that hold a task and prove it in the request."""

import asyncio
from collections.abc import Mapping
from functools import partial

import structlog
from opentelemetry.trace import SpanKind
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from flotilla.contracts.envelope import from_json, to_json
from flotilla.contracts.errors import Forbidden, Invalid, RetryLater, Undecodable
from flotilla.contracts.json_types import JsonObject
from flotilla.contracts.mcp import CALL_REFUSED, CALL_SCHEME, CALLS_PATH, McpCallAtOnce
from flotilla.runtime.http_limits import limited_body
from flotilla.telemetry import metrics, span
from tool_gateway.at_once import MAX_NAMED_CHARS, AskingTask, CallsAtOnce, LeftToWorker, TooManyCalls

log = structlog.get_logger(__name__)
MAX_BODY_BYTES = 1_000_000
"""Of a call's arguments: what a task's input may have, where the call goes through the worker."""


def calls_api(calls: CallsAtOnce) -> Starlette:
    """Return the application that serves `calls`."""
    return Starlette(routes=[Route(CALLS_PATH, partial(_call, calls), methods=["POST"])])


async def _call(calls: CallsAtOnce, request: Request) -> Response:
    try:
        asked = McpCallAtOnce.from_authorization(request.headers.get("authorization", ""))
    except Undecodable as error:
        return _refusal(401, str(error), {"WWW-Authenticate": CALL_SCHEME})
    try:
        asking = await calls.check_may_ask(asked)
    except Forbidden as error:
        log.warning("mcp_call_refused", **_named(asked))
        return _refusal(403, str(error))
    except RetryLater as error:
        return _refusal(503, str(error))
    # Only now: what nobody may send is neither read nor decoded.
    body = await limited_body(request, MAX_BODY_BYTES)
    if body is None:
        return _refusal(413, f"a call has at most {MAX_BODY_BYTES} bytes")
    try:
        arguments = from_json(body, dict)
    except Undecodable as error:
        return _refusal(400, str(error))
    with span(
        f"POST {CALLS_PATH}",
        kind=SpanKind.SERVER,
        parent=request.headers.get("traceparent"),
        attributes={"http.request.method": "POST", "http.route": CALLS_PATH},
    ):
        # A call goes on, and is stored, when its agent is gone.
        return await asyncio.shield(asyncio.ensure_future(_answer(calls, asking, arguments)))


async def _answer(calls: CallsAtOnce, asking: AskingTask, arguments: JsonObject) -> Response:
    asked = asking.asked
    try:
        return Response(to_json(await calls.call(asking, arguments)), media_type="application/json")
    except TooManyCalls as error:
        metrics.MCP_REFUSED.labels(asked.tool.partition(".")[0], "too_many").inc()
        return _refusal(CALL_REFUSED, str(error))
    except (LeftToWorker, Invalid) as reason:
        return _refusal(409, str(reason))
    except RetryLater as error:
        return _refusal(503, str(error))
    except Exception as error:  # noqa: BLE001 - the server's answer, or its end: stored as such, and the worker's try sees it
        log.warning("mcp_call_without_answer", **_named(asked), error=type(error).__name__)
        return _refusal(502, f"{type(error).__name__}: the call has no answer")


def _named(asked: McpCallAtOnce) -> dict[str, str]:
    """What the log shows of a request."""
    names = {"tenant": asked.tenant_id, "task_id": asked.task_id, "tool": asked.tool}
    return {what: name[:MAX_NAMED_CHARS] for what, name in names.items()}


def _refusal(status: int, reason: str, headers: Mapping[str, str] | None = None) -> Response:
    return JSONResponse({"reason": reason}, status, headers)
