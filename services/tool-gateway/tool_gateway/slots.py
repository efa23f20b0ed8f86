"""How many calls a server has at a time: one that hangs takes no slot of others, and no tenant has all of a server."""

import asyncio
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from flotilla.agent import ToolNotCalled
from tool_gateway.servers import McpServerConfig


class ServerBusy(ToolNotCalled):
    """The server, or the tenant there, has as many calls as it may; nothing was sent, and the task is tried again."""


class CallSlots:
    """The calls of one server, counted over all tenants and for each."""

    def __init__(self, name: str, server: McpServerConfig) -> None:
        self._name = name
        self._total = server.max_calls
        self._per_tenant = server.max_calls_per_tenant
        self._open: Counter[str] = Counter()
        self._idle = asyncio.Event()
        self._idle.set()

    @contextmanager
    def hold(self, tenant_id: str) -> Iterator[None]:
        """One slot for as long as the block runs.

        Raises:
            ServerBusy: none is left for the tenant.
        """
        # The task's owner reads the message: how many calls others have is not in it.
        if self._open[tenant_id] >= self._per_tenant:
            raise ServerBusy(f"the tenant has {self._per_tenant} calls of MCP server {self._name}: it may have no more")
        if self._open.total() >= self._total:
            raise ServerBusy(f"MCP server {self._name} has no call to spare now: it is tried again")
        self._open[tenant_id] += 1
        self._idle.clear()
        try:
            yield
        finally:
            self._open[tenant_id] -= 1
            if not self._open[tenant_id]:
                del self._open[tenant_id]
            if not self._open:
                self._idle.set()

    async def wait_idle(self) -> None:
        """Wait until no call is open."""
        await self._idle.wait()
