"""A built-in agent as its service runs it: its own composition root, in this process."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import TypeVar

from flotilla.agent import AgentSettings
from flotilla.runtime import Runtime

S = TypeVar("S", bound=AgentSettings)


@asynccontextmanager
async def service_running(
    name: str, run: Callable[[S, Runtime], Awaitable[None]], settings: S
) -> AsyncIterator[Runtime]:
    """The service, as long as the block; then it drains and ends."""
    runtime = Runtime(name)
    work = asyncio.ensure_future(run(settings, runtime))
    try:
        yield runtime
    finally:
        runtime.request_stop("end of the test")
        async with asyncio.timeout(20):
            await work
