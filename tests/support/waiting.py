"""Waits for conditions; never for time. On a busy machine every deadline is later: what is slow there is not broken."""

import asyncio
import os
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar, overload

T = TypeVar("T")
_MOST_BUSY = 6.0
_RARER, _RAREST_S = 1.2, 0.1


@overload
async def eventually(
    condition: Callable[[], Awaitable[T | None]], timeout_s: float = ..., every_s: float = ...
) -> T: ...
@overload
async def eventually(condition: Callable[[], T | None], timeout_s: float = ..., every_s: float = ...) -> T: ...
async def eventually(condition: Callable[[], object], timeout_s: float = 10.0, every_s: float = 0.02) -> object:
    """The first truthy value of `condition`, asked every `every_s`, then more rarely: asking takes processors from what
    is waited for. Fails with its last value after `timeout_s`, on a busy machine later."""
    deadline = time.monotonic() + timeout_s * busyness()
    rarest_s = max(every_s, _RAREST_S)
    while True:
        value = condition()
        if isinstance(value, Awaitable):
            value = await value
        if value:
            return value
        if time.monotonic() > deadline:
            raise AssertionError(f"not so within {timeout_s:g} s; last seen: {value!r}")
        await asyncio.sleep(every_s)
        every_s = min(every_s * _RARER, rarest_s)


async def settled(look: Callable[[], T], expected: T, timeout_s: float = 10.0) -> None:
    """Waits until `look` gives `expected`; fails with the difference."""
    try:
        await eventually(lambda: look() == expected, timeout_s, every_s=0.05)
    except AssertionError:
        raise AssertionError(f"after {timeout_s:g} s: {look()!r}, not {expected!r}") from None


def busyness() -> float:
    """How many times longer than on an idle machine a process takes now, at most `_MOST_BUSY`."""
    waiting, processors = os.getloadavg()[0], len(os.sched_getaffinity(0))
    return min(max(1.0, waiting / processors), _MOST_BUSY)
