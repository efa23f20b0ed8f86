"""A model endpoint that sends exactly the bytes that a test wrote, over real HTTP."""

import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from flotilla.runtime.health import http_server

EVENT_STREAM = "text/event-stream"
USAGE = {"prompt_tokens": 20, "completion_tokens": 7, "total_tokens": 27}


@dataclass
class ScriptedEndpoint:
    """Answers every request with `parts`, one write each."""

    parts: Sequence[bytes]
    status: int = 200
    content_type: str = EVENT_STREAM
    headers: dict[str, str] = field(default_factory=dict)
    requests: list[dict[str, Any]] = field(default_factory=list)
    paths: list[str] = field(default_factory=list)
    request_headers: list[dict[str, str]] = field(default_factory=list)
    url: str = ""

    async def answer(self, request: Request) -> Response:
        self.requests.append(await request.json())
        self.paths.append(f"{request.url.path}?{request.url.query}")
        self.request_headers.append(dict(request.headers))
        headers = {"Content-Type": self.content_type, **self.headers}
        return StreamingResponse(self._written(), status_code=self.status, headers=headers)

    async def _written(self) -> AsyncIterator[bytes]:
        for part in self.parts:
            yield part


@asynccontextmanager
async def running_endpoint(endpoint: ScriptedEndpoint) -> AsyncIterator[ScriptedEndpoint]:
    """Serves on loopback while the block runs."""
    app = Starlette(routes=[Route("/{path:path}", endpoint.answer, methods=["POST"])])
    async with http_server(app, "127.0.0.1", 0, grace_s=0).serving() as port:
        endpoint.url = f"http://127.0.0.1:{port}/v1"
        yield endpoint


def events(*documents: Any, end: bytes = b"\n", done: bool = True) -> list[bytes]:
    """`documents` as the events of a stream; a text stands for a delta with that content."""
    sent = [b"data: " + json.dumps(chunk(d) if isinstance(d, str) else d).encode() + end * 2 for d in documents]
    return [*sent, b"data: [DONE]" + end * 2] if done else sent


def chunk(content: Any = None, finish: Any = None, **delta: Any) -> dict[str, Any]:
    """One chunk of a stream."""
    fields = delta if content is None else {"content": content, **delta}
    return {"object": "chat.completion.chunk", "model": "m", "choices": [{"delta": fields, "finish_reason": finish}]}


def finished(reason: Any = "stop", usage: Any = None) -> tuple[dict[str, Any], dict[str, Any]]:
    """The last two chunks: the finish reason, and the tokens."""
    return chunk(finish=reason), {"choices": [], "usage": USAGE if usage is None else usage}


def call(name: str | None = None, arguments: Any = None, **fields: Any) -> dict[str, Any]:
    """A chunk with one tool call's delta."""
    function = {key: value for key, value in (("name", name), ("arguments", arguments)) if value is not None}
    return chunk(tool_calls=[{**fields, "function": function}])
