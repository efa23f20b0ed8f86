"""The connections to MCP servers, kept open: made again with growing waits, and asked what they offer now."""

import asyncio
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager, suppress
from functools import partial
from typing import Any, TypeAlias

import structlog
from mcp import Client, MCPError
from mcp.client.streamable_http import streamable_http_client
from mcp_types import (
    CONNECTION_CLOSED,
    CallToolRequest,
    CallToolRequestParams,
    CallToolResult,
    Implementation,
    LoggingMessageNotificationParams,
    PaginatedRequestParams,
    Tool,
)

from flotilla.agent import ToolNotCalled
from flotilla.contracts.errors import RetryLater
from flotilla.runtime import Job
from flotilla.runtime.stopping import sleep_or_stop
from flotilla.telemetry import metrics
from tool_gateway.http import limited_client
from tool_gateway.offers import MAX_TOOLS, Offer, offer_of
from tool_gateway.servers import Secrets, Server
from tool_gateway.stdio import child_server

LOOK_AGAIN_S = 30.0
"""How often a server is asked what it offers: also the longest that a lost one goes unnoticed."""
CONNECT_S = 30.0
IDEMPOTENCY_META = "io.flotilla/idempotency-key"
_FIRST_WAIT_S, _LONGEST_WAIT_S = 0.5, 30.0
_MAX_SAID_CHARS = 500
_MAX_LINES_SAID = 100
"""Between two looks; what a server says beyond is dropped."""
_TOOL_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9_.-]{0,63}")
log = structlog.get_logger(__name__)

OnOffers: TypeAlias = Callable[[str, list[Offer]], Awaitable[None]]


class ServerAway(ToolNotCalled):
    """The MCP server is not connected, so nothing was sent to it; the same call may succeed later."""


class Connection:
    """One server. `run` keeps it connected; `call` uses it meanwhile."""

    def __init__(self, name: str, server: Server, on_offers: OnOffers) -> None:
        self.name = name
        self.server = server
        self.offers: dict[str, Offer] = {}
        self._on_offers = on_offers
        self._secrets = Secrets()
        self._client: Client | None = None
        self._changed = asyncio.Event()
        self._ready = asyncio.Event()
        self._lines_said = 0
        self._connected = metrics.MCP_CONNECTED.labels(name)
        self._connected.set(0)

    async def call(self, tool: str, arguments: dict[str, Any], key: str) -> CallToolResult:
        """Return what the tool answers; a server that knows such keys gets the idempotency key `key`. Raises whatever
        ends the call: then nobody knows what it did.

        Raises:
            ServerAway: nothing was sent.
            TimeoutError: no answer within the server's `timeoutS`.
        """
        session = self._at_hand().session
        params = CallToolRequestParams.model_validate(
            {"name": tool, "arguments": arguments, "_meta": {IDEMPOTENCY_META: key}}
        )
        # Not the session's own `call_tool`: it would match what a stranger sends with a stranger's patterns.
        try:
            async with asyncio.timeout(self.server.timeout_s):
                return await session.send_request(CallToolRequest(params=params), CallToolResult)
        except TimeoutError:
            raise TimeoutError(f"MCP server {self.name}: no answer within {self.server.timeout_s:g} s") from None
        except MCPError as error:
            if error.code == CONNECTION_CLOSED:
                self._lost()
            raise

    async def ready(self, within_s: float = 20.0) -> None:
        """Wait until the server is connected.

        Raises:
            ServerAway: it is not, within `within_s`.
        """
        with suppress(TimeoutError):
            async with asyncio.timeout(within_s):
                await self._ready.wait()
        self._at_hand()

    def masked(self, text: str) -> str:
        """Return `text` without the server's credentials."""
        return self._secrets.masked(text)

    async def run(self, stop: asyncio.Event) -> None:
        """Keep the connection until `stop`."""
        wait_s = _FIRST_WAIT_S
        while not stop.is_set():
            try:
                async with self._open() as client:
                    await self._look(client)
                    wait_s = _FIRST_WAIT_S
                    await self._keep(client, stop)
            except Exception as error:  # noqa: BLE001 - a stranger's program: whatever it breaks, others go on
                log.warning("mcp_server_away", server=self.name, error=self.masked(_reason(error)))
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
                        self._transport(stack),
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
            http = limited_client(
                self._secrets.headers(server), timeout_s=server.timeout_s, max_bytes=server.max_message_bytes
            )
            stack.push_async_callback(http.aclose)
            return streamable_http_client(server.url, http_client=http, max_sse_event_size=server.max_message_bytes)
        return child_server(
            [server.command or "", *server.args],
            self._secrets.environment(server),
            cwd=server.cwd,
            max_message_bytes=server.max_message_bytes,
            says=partial(self._said, "stderr"),
            ended=self._lost,
        )

    async def _keep(self, client: Client, stop: asyncio.Event) -> None:
        while not stop.is_set():
            await self._until_changed(stop)
            await self._look(client)

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
            tools = await _listed(client)
        offers = [offer for tool in tools if (offer := self._offer(tool)) is not None]
        self.offers = {offer.tool: offer for offer in offers}
        try:
            await self._on_offers(self.name, offers)
        except RetryLater as error:  # calls look there themselves; the next look notes it
            log.warning("mcp_offers_not_noted", server=self.name, reason=str(error))
        self._client = client
        self._ready.set()
        self._connected.set(1)
        self._lines_said = 0

    def _offer(self, tool: Tool) -> Offer | None:
        if self.server.tools is not None and tool.name not in self.server.tools:
            return None
        if not _TOOL_NAME.fullmatch(tool.name):
            log.warning("mcp_tool_left_out", server=self.name, reason="its name is not one that models can call")
            return None
        return offer_of(self.name, tool, self.server.risk_of(tool.name))

    async def _logged(self, params: LoggingMessageNotificationParams) -> None:
        self._said("log", str(params.data))

    async def _noticed(self, message: object) -> None:
        if type(message).__name__ == "ToolListChangedNotification":
            self._changed.set()

    def _lost(self) -> None:
        """Send nothing more; `run` connects again."""
        self._client = None
        self._ready.clear()
        self._changed.set()

    def _said(self, where: str, text: str) -> None:
        self._lines_said += 1
        if self._lines_said > _MAX_LINES_SAID:
            return
        log.info("mcp_server_said", server=self.name, where=where, text=self.masked(text)[:_MAX_SAID_CHARS])


async def _listed(client: Client) -> list[Tool]:
    tools: list[Tool] = []
    cursor: str | None = None
    while len(tools) < MAX_TOOLS:
        page = await client.session.list_tools(params=PaginatedRequestParams(cursor=cursor))
        tools += page.tools
        cursor = page.next_cursor
        if cursor is None:
            return tools
    return tools[:MAX_TOOLS]


def _reason(error: BaseException) -> str:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return f"{type(error).__name__}: {error}"


class Connections(Mapping[str, Connection]):
    """The fleet's servers, by name."""

    def __init__(self, servers: Mapping[str, Server], on_offers: OnOffers) -> None:
        self._all = {name: Connection(name, server, on_offers) for name, server in servers.items()}

    def __getitem__(self, name: str) -> Connection:
        return self._all[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._all)

    def __len__(self) -> int:
        return len(self._all)

    def jobs(self) -> list[Job]:
        """Return what keeps each of them connected."""
        return [Job(name=f"mcp {name}", work=each.run, stuck_after_s=None) for name, each in self._all.items()]
