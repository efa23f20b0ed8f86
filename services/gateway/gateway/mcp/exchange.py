"""One HTTP request of an MCP client, handed to the SDK, which speaks every version of the protocol."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from mcp.server.lowlevel import Server
from mcp.server.streamable_http_manager import StreamableHTTPSessionManager
from starlette.datastructures import MutableHeaders
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from flotilla.contracts.errors import Forbidden
from flotilla.contracts.ids import new_id
from gateway.mcp.door import SESSION_HEADER
from gateway.mcp.reads import Read
from gateway.problems import HttpProblem

_LOOPBACK = {"localhost", "127.0.0.1", "::1"}


class MisdirectedRequest(HttpProblem):
    """The request was sent to a name that is not the gateway's."""

    code = "misdirected"

    def __init__(self, host: str) -> None:
        detail = f"{host[:200]} is not an address of this gateway: name it in FLOTILLA_PUBLIC_URL or FLOTILLA_MCP_HOSTS"
        super().__init__(421, detail)


class ForeignPage(Forbidden):
    """A browser sends it for a page of another site."""

    code = "cross_site"


def check_addresses(request: Request, *, public_url: str | None, hosts: Sequence[str], origins: Sequence[str]) -> None:
    """Refuse what a page made a browser send to a name that leads here only for the browser (DNS rebinding), and what
    pages of unlisted origins send. `hosts` are names without ports.

    Raises:
        MisdirectedRequest: the Host header has a name that is not the gateway's.
        ForeignPage: the Origin header does.
    """
    own = {*_LOOPBACK, *hosts, *([_hostname(public_url)] if public_url else [])}
    host = request.headers.get("Host", "")
    if _hostname(f"//{host}") not in own:
        raise MisdirectedRequest(host)
    origin = request.headers.get("Origin")
    if origin is not None and origin not in origins and _hostname(origin) not in own:
        raise ForeignPage("a page of another origin sent this: list it in FLOTILLA_CORS_ORIGINS")


def _hostname(url: str) -> str:
    try:
        return urlsplit(url).hostname or ""
    except ValueError:
        return ""


@dataclass(frozen=True, slots=True)
class McpEndpoint:
    """What answers messages."""

    manager: StreamableHTTPSessionManager
    read_operations: Callable[[], Mapping[str, Read]]
    """The operations of the API that are tools; describing them takes a moment the first time."""


@asynccontextmanager
async def serve_mcp_messages(
    server: Server[Any], read_operations: Callable[[], Mapping[str, Read]], max_body_bytes: int
) -> AsyncIterator[McpEndpoint]:
    """Serve messages with `server` for as long as the block runs, which may begin and end in different tasks."""
    manager = StreamableHTTPSessionManager(app=server, stateless=True, max_request_body_size=max_body_bytes)
    ready, ended = asyncio.Event(), asyncio.Event()

    async def serve() -> None:
        async with manager.run():
            ready.set()
            await ended.wait()

    serving = asyncio.create_task(serve(), name="mcp")
    await ready.wait()
    try:
        yield McpEndpoint(manager, read_operations)
    finally:
        ended.set()
        await serving


class Exchange(Response):
    """The answer to one message: the SDK writes it."""

    def __init__(self, manager: StreamableHTTPSessionManager, body: bytes, method: object) -> None:
        super().__init__()
        self._manager = manager
        self._message = body
        self._begins = method == "initialize"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer it."""
        sent = False

        async def again() -> Message:
            nonlocal sent
            if sent:
                return await receive()
            sent = True
            return {"type": "http.request", "body": self._message, "more_body": False}

        await self._manager.handle_request(scope, again, self._with_session(send))

    def _with_session(self, send: Send) -> Send:
        """Name a session in the answer to `initialize`: a name only, by which requests can be cancelled."""
        if not self._begins:
            return send

        async def named(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message)[SESSION_HEADER] = new_id()
            await send(message)

        return named
