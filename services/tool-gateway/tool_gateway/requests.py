"""Requests that a server sends: a few may wait for their answers. One that reads no answers would fill the memory."""

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from typing import Any

import structlog
from mcp_types import JSONRPCError, JSONRPCRequest, JSONRPCResponse

MAX_UNANSWERED = 100
log = structlog.get_logger(__name__)


@dataclass(slots=True)
class _Unanswered:
    count: int = 0


class _Stream:
    """A stream of messages, and what goes through it is counted."""

    def __init__(self, stream: Any, unanswered: _Unanswered) -> None:
        self._stream = stream
        self._unanswered = unanswered

    async def aclose(self) -> None:
        """Close the stream."""
        await self._stream.aclose()

    async def __aenter__(self) -> "_Stream":
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()


class _Received(_Stream):
    @property
    def last_context(self) -> Any:
        """Where the last message came from, for the MCP client."""
        return getattr(self._stream, "last_context", None)

    async def receive(self) -> Any:
        """Return the next message."""
        return await self._stream.receive()

    def __aiter__(self) -> "_Received":
        return self

    async def __anext__(self) -> Any:
        item = await self._stream.__anext__()
        if isinstance(getattr(item, "message", None), JSONRPCRequest):
            self._unanswered.count += 1
        if self._unanswered.count > MAX_UNANSWERED:
            log.warning("mcp_requests_unanswered", count=self._unanswered.count)
            raise StopAsyncIteration
        return item


class _Sent(_Stream):
    async def send(self, item: Any, /) -> None:
        """Send a message."""
        await self._stream.send(item)
        if isinstance(item.message, JSONRPCResponse | JSONRPCError):
            self._unanswered.count -= 1


@asynccontextmanager
async def limit_unanswered_requests(transport: AbstractAsyncContextManager[Any]) -> AsyncIterator[tuple[Any, Any]]:
    """Give the streams of `transport`, of which the first ends when over `MAX_UNANSWERED` requests wait for answers."""
    async with transport as (received, sent):
        unanswered = _Unanswered()
        yield _Received(received, unanswered), _Sent(sent, unanswered)
