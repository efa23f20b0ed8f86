"""Work that a cancellation does not interrupt."""

import asyncio
from collections.abc import Awaitable
from typing import TypeVar

T = TypeVar("T")


async def wait_ignoring_cancellation(work: Awaitable[T]) -> T:
    """Wait for `work` to its end, even when the workflow is cancelled meanwhile: what is nearly done stays done."""
    result, _ = await _wait_to_end(work)
    return result


async def wait_then_cancel(work: Awaitable[T]) -> T:
    """Wait for `work` to its end; a cancellation that came meanwhile is raised after it, so that nothing of `work`
    happens behind the back of the cleanup."""
    result, cancelled = await _wait_to_end(work)
    if cancelled:
        raise asyncio.CancelledError
    return result


async def wait_noticing_cancellation(work: Awaitable[object]) -> bool:
    """Wait for `work` to its end; return whether the workflow was cancelled meanwhile."""
    _, cancelled = await _wait_to_end(work)
    return cancelled


async def _wait_to_end(work: Awaitable[T]) -> tuple[T, bool]:
    task = asyncio.ensure_future(work)
    cancelled = False
    while not task.done():
        try:
            await asyncio.shield(task)
        except asyncio.CancelledError:
            if task.cancelled():
                raise
            cancelled = True
    return task.result(), cancelled
