"""The chat completions of one run of a task over HTTP on loopback, for its child processes in other languages.

The server lives as long as the block that opened it, on a port of its own, with a key of its own: no other task's key
opens it, and nothing does afterwards.
"""

import json
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from flotilla.agent.chat_api import MAX_CHAT_BODY_BYTES, ChatApi, ChatResponse, error_response, openai_error_response
from flotilla.agent.gates import ApprovalPending
from flotilla.agent.wrapped_errors import TaskCancelled
from flotilla.contracts.errors import FlotillaError
from flotilla.runtime.health import http_server

_API_KEY_BYTES = 32


@asynccontextmanager
async def serve_model_api(api: ChatApi) -> AsyncIterator[dict[str, str]]:
    """Serve `api`; give the variables by which clients find it."""
    key = secrets.token_urlsafe(_API_KEY_BYTES)
    route = Route("/v1/{path:path}", partial(_answer_authenticated, api, key), methods=["GET", "POST"])
    async with http_server(Starlette(routes=[route]), "127.0.0.1", 0, grace_s=0).serving() as port:
        url = f"http://127.0.0.1:{port}/v1"
        yield {
            "FLOTILLA_MODEL_URL": url,
            "FLOTILLA_MODEL_KEY": key,
            "OPENAI_BASE_URL": url,
            "OPENAI_API_KEY": key,
        }


async def _answer_authenticated(api: ChatApi, key: str, request: Request) -> Response:
    given = request.headers.get("authorization", "").removeprefix("Bearer ")
    if not secrets.compare_digest(given.encode(), key.encode()):
        return _to_starlette_response(
            openai_error_response(401, "invalid_request_error", "invalid_api_key", "the key is not that of this task")
        )
    return await answer_chat_request(api, request.method, request.path_params["path"], await read_limited_body(request))


async def answer_chat_request(api: ChatApi, method: str, path: str, body: bytes | None) -> Response:
    """Answer a request for chat completions; `body` is None where it was too large to read."""
    if body is None:
        return _to_starlette_response(
            openai_error_response(
                413, "invalid_request_error", "too_large", f"a body has at most {MAX_CHAT_BODY_BYTES} bytes"
            )
        )
    try:
        return _to_starlette_response(await api.answer_request(method, path, body))
    except ApprovalPending as pending:
        return _to_starlette_response(openai_error_response(503, "server_error", "approval_pending", str(pending)))
    except TaskCancelled:
        return _to_starlette_response(
            openai_error_response(503, "server_error", "cancelled", "the task is not wanted any more")
        )


async def read_limited_body(request: Request) -> bytes | None:
    """The body, or None if it is too large."""
    read: list[bytes] = []
    size = 0
    async for chunk in request.stream():
        size += len(chunk)
        if size > MAX_CHAT_BODY_BYTES:
            return None
        read.append(chunk)
    return b"".join(read)


def _to_starlette_response(answer: ChatResponse) -> Response:
    if answer.events is None:
        return JSONResponse(answer.document, answer.status, answer.headers)
    return StreamingResponse(
        _events_with_final_error(answer.events), headers=answer.headers, media_type="text/event-stream"
    )


async def _events_with_final_error(events: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """The events. An error in the middle is the last one, in the form that OpenAI's clients know."""
    try:
        async for event in events:
            yield event
    except (FlotillaError, TaskCancelled) as error:
        known = error if isinstance(error, FlotillaError) else FlotillaError("the task is not wanted any more")
        yield b"data: " + json.dumps(error_response(known).document).encode() + b"\n\n"
