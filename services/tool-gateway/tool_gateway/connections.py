"""The connections to MCP servers, kept open: made again with growing waits, and asked what they offer now."""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager, suppress
from functools import partial
from typing import Any, TypeAlias

import structlog
from mcp import Client, MCPError
from mcp.client.streamable_http import streamable_http_client
from mcp_types import (
    CONNECTION_CLOSED,
    INVALID_REQUEST,
    CallToolRequest,
    CallToolRequestParams,
    CallToolResult,
    Implementation,
    LoggingMessageNotificationParams,
    PaginatedRequestParams,
    Tool,
    ToolListChangedNotification,
)

from flotilla.agent import ToolNotCalled
from flotilla.contracts.errors import RetryLater
from flotilla.runtime import Job
from flotilla.runtime.stopping import sleep_or_stop
from flotilla.telemetry import metrics
from tool_gateway.http import http_client_with_limit
from tool_gateway.offers import MAX_OFFERED_BYTES, MAX_TOOLS, OfferedToolDefinition, is_tool_name, read_offer
from tool_gateway.requests import limit_unanswered_requests
from tool_gateway.servers import McpServerConfig, ServerSecrets
from tool_gateway.slots import CallSlots
from tool_gateway.stdio import start_stdio_server

LOOK_AGAIN_S = 30.0
"""How often a server is asked what it offers: also the longest that a lost one goes unnoticed."""
LOOKS_APART_S = 1.0
"""At least between two looks, however often the server says that its tools changed."""
CONNECT_S = 30.0
IDEMPOTENCY_META = "io.flotilla/idempotency-key"
_FIRST_WAIT_S, _LONGEST_WAIT_S = 0.5, 30.0
_MAX_SAID_CHARS = 500
_MAX_LINES_SAID = 100
"""In `LOOK_AGAIN_S`; what a server says beyond is dropped."""
_MAX_PAGES = 100
_MAX_NAME_CHARS = 100
_MAX_LEFT_OUT_NAMED = 10
_SESSION_OVER = "Session terminated"
"""As the MCP client says it where a server answers 404."""
# The SDK's lines hold what servers sent, credentials too, and come as often as a server likes. `client` is its, too.
for _chatty in ("mcp", "client"):
    logging.getLogger(_chatty).setLevel(logging.CRITICAL)
log = structlog.get_logger(__name__)

OnOffers: TypeAlias = Callable[[str, list[OfferedToolDefinition]], Awaitable[None]]


class ServerAway(ToolNotCalled):
    """The MCP server is not connected, so nothing was sent to it; the same call may succeed later."""


class ServerConnection:
    """One server. `run` keeps it connected; `call` uses it meanwhile."""

    def __init__(self, name: str, server: McpServerConfig, on_offers: OnOffers) -> None:
        self.name = name
        self.server = server
        self.slots = CallSlots(name, server)
        self.offers: dict[str, OfferedToolDefinition] = {}
        self._on_offers = on_offers
        self._secrets = ServerSecrets()
        self._client: Client | None = None
        self._changed = asyncio.Event()
        self._ready = asyncio.Event()
        self._left_out: set[str] = set()
        self._lines_said, self._counted_since = 0, 0.0
        self._connected = metrics.MCP_CONNECTED.labels(name)
        self._connected.set(0)

    async def call(self, tool: str, arguments: dict[str, Any], key: str) -> CallToolResult:
        """Return what the tool answers; a server that knows such keys gets the idempotency key `key`. Raises whatever
        ends the call, which may have had its effect then.

        Raises:
            ServerAway: nothing was sent, or the server did not know the session.
            TimeoutError: no answer within the server's `timeoutS`.
        """
        session = self._at_hand().session
        params = CallToolRequestParams.model_validate(
            {"name": tool, "arguments": arguments, "_meta": {IDEMPOTENCY_META: key}}
        )
        # Not the session's own `call_tool`: it would match the server's answer with the server's own patterns.
        try:
            async with asyncio.timeout(self.server.timeout_s):
                return await session.send_request(CallToolRequest(params=params), CallToolResult)
        except TimeoutError:
            raise TimeoutError(f"MCP server {self.name}: no answer within {self.server.timeout_s:g} s") from None
        except MCPError as error:
            if error.code == CONNECTION_CLOSED:
                self._lost()
            if _is_session_over(error):
                self._lost()
                raise ServerAway(
                    f"MCP server {self.name} ended its session; the tool gateway connects again"
                ) from error
            raise

    @property
    def is_connected(self) -> bool:
        """Whether a call can be sent now."""
        return self._client is not None

    async def wait_connected(self, within_s: float = 20.0) -> None:
        """Wait until the server is connected.

        Raises:
            ServerAway: it is not, within `within_s`.
        """
        with suppress(TimeoutError):
            async with asyncio.timeout(within_s):
                await self._ready.wait()
        self._at_hand()

    def mask_credentials(self, text: str) -> str:
        """Return `text` without the server's credentials."""
        return self._secrets.mask_credentials(text)

    async def run(self, stop: asyncio.Event) -> None:
        """Keep the connection until `stop`; then for as long as calls in hand take, while new ones are refused."""
        wait_s = _FIRST_WAIT_S
        while not stop.is_set():
            try:
                async with self._open() as client:
                    await self._look(client)
                    wait_s = _FIRST_WAIT_S
                    await self._keep(client, stop)
                    self._client = None
                    await self.slots.wait_idle()
            except Exception as error:  # noqa: BLE001 - whatever one server breaks, the others go on
                log.warning("mcp_server_away", server=self.name, error=self.mask_credentials(_reason(error)))
            finally:
                self._client = None
                self._ready.clear()
                self._connected.set(0)
            if not stop.is_set():
                await sleep_or_stop(stop, wait_s)
                wait_s = min(wait_s * 2, _LONGEST_WAIT_S)

    def _at_hand(self) -> Client:
        if self._client is None:
            raise ServerAway(f"MCP server {self.name} is not connected; the tool gateway's log says why")
        return self._client

    @asynccontextmanager
    async def _open(self) -> AsyncIterator[Client]:
        async with AsyncExitStack() as stack:
            async with asyncio.timeout(CONNECT_S):
                client = await stack.enter_async_context(
                    Client(
                        limit_unanswered_requests(self._transport(stack)),
                        cache=None,
                        client_info=Implementation(name="flotilla-tool-gateway", version="1"),
                        logging_callback=self._logged,
                        message_handler=self._noticed,
                    )
                )
            yield client

    def _transport(self, stack: AsyncExitStack) -> AbstractAsyncContextManager[Any]:
        server = self.server
        if server.url is not None:
            http = http_client_with_limit(
                self._secrets.http_headers(server), timeout_s=server.timeout_s, max_bytes=server.max_message_bytes
            )
            stack.push_async_callback(http.aclose)
            return streamable_http_client(server.url, http_client=http, max_sse_event_size=server.max_message_bytes)
        return start_stdio_server(
            [server.command or "", *server.args],
            self._secrets.stdio_environment(server),
            cwd=server.cwd,
            max_message_bytes=server.max_message_bytes,
            says=partial(self._said, "stderr"),
            ended=self._lost,
        )

    async def _keep(self, client: Client, stop: asyncio.Event) -> None:
        while not stop.is_set():
            await self._until_changed(stop)
            if stop.is_set():
                break
            await self._look(client)
            await sleep_or_stop(stop, LOOKS_APART_S)

    async def _until_changed(self, stop: asyncio.Event) -> None:
        waiting = [asyncio.create_task(self._changed.wait()), asyncio.create_task(sleep_or_stop(stop, LOOK_AGAIN_S))]
        try:
            await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for each in waiting:
                each.cancel()
        self._changed.clear()

    async def _look(self, client: Client) -> None:
        async with asyncio.timeout(CONNECT_S):
            self.offers = await self._offered(client)
        try:
            await self._on_offers(self.name, list(self.offers.values()))
        except RetryLater as error:  # calls look there themselves; the next look notes it
            log.warning("mcp_offers_not_noted", server=self.name, reason=str(error))
        self._client = client
        self._ready.set()
        self._connected.set(1)

    async def _offered(self, client: Client) -> dict[str, OfferedToolDefinition]:
        """Return what the server offers, by name and in that order: as much as can be offered, page by page."""
        offers: dict[str, OfferedToolDefinition] = {}
        left_out: dict[str, str] = {}
        size, cursor = 0, None
        for _ in range(_MAX_PAGES):
            page = await client.session.list_tools(params=PaginatedRequestParams(cursor=cursor))
            for tool in page.tools[:MAX_TOOLS]:
                if self.server.tools is not None and tool.name not in self.server.tools:
                    continue
                offer = self._offer(tool)
                if isinstance(offer, str):
                    left_out[tool.name[:_MAX_NAME_CHARS]] = offer
                elif len(offers) == MAX_TOOLS or size + offer.size > MAX_OFFERED_BYTES:
                    left_out[tool.name] = (
                        f"the server has more than {MAX_TOOLS} tools, or {MAX_OFFERED_BYTES} bytes of them"
                    )
                else:
                    size += offer.size
                    offers[tool.name] = offer
            cursor = page.next_cursor
            if cursor is None or len(left_out) > MAX_TOOLS:
                break
        self._warn_of(left_out)
        return dict(sorted(offers.items()))

    def _offer(self, tool: Tool) -> OfferedToolDefinition | str:
        """Return the tool as it is offered, or why it is not."""
        if not is_tool_name(tool.name):
            return "its name is not one that models can call"
        return read_offer(self.name, tool, self.server.minimum_risk(tool.name))

    def _warn_of(self, left_out: Mapping[str, str]) -> None:
        if left_out.keys() != self._left_out:
            self._left_out = set(left_out)
            some = dict(list(left_out.items())[:_MAX_LEFT_OUT_NAMED])
            log.warning("mcp_tools_left_out", server=self.name, count=len(left_out), tools=some)

    async def _logged(self, params: LoggingMessageNotificationParams) -> None:
        self._said("log", str(params.data))

    async def _noticed(self, message: object) -> None:
        if isinstance(message, ToolListChangedNotification):
            self._changed.set()

    def _lost(self) -> None:
        """Send nothing more; `run` connects again."""
        self._client = None
        self._ready.clear()
        self._changed.set()

    def _said(self, where: str, text: str) -> None:
        now = time.monotonic()
        if now - self._counted_since > LOOK_AGAIN_S:
            self._lines_said, self._counted_since = 0, now
        self._lines_said += 1
        if self._lines_said > _MAX_LINES_SAID:
            return
        log.info("mcp_server_said", server=self.name, where=where, text=self.mask_credentials(text)[:_MAX_SAID_CHARS])


def _is_session_over(error: MCPError) -> bool:
    """Whether the server answered that it does not know the session: it has started again."""
    return error.code == INVALID_REQUEST and error.message == _SESSION_OVER


def _reason(error: BaseException) -> str:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return f"{type(error).__name__}: {error}"


class ServerConnections(Mapping[str, ServerConnection]):
    """The fleet's servers, by name."""

    def __init__(self, servers: Mapping[str, McpServerConfig], on_offers: OnOffers) -> None:
        self._all = {name: ServerConnection(name, server, on_offers) for name, server in servers.items()}

    def __getitem__(self, name: str) -> ServerConnection:
        return self._all[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._all)

    def __len__(self) -> int:
        return len(self._all)

    @property
    def max_calls(self) -> int:
        """How many calls all of them may have at a time."""
        return sum(each.server.max_calls for each in self._all.values())

    def jobs(self) -> list[Job]:
        """Return what keeps each of them connected."""
        return [Job(name=f"mcp {name}", work=each.run, stuck_after_s=None) for name, each in self._all.items()]
