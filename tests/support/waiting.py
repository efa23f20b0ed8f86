"""Waits for conditions; never for time."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar, overload

T = TypeVar("T")


@overload
async def eventually(
    condition: Callable[[], Awaitable[T | None]], timeout_s: float = ..., every_s: float = ...
) -> T: ...
@overload
async def eventually(condition: Callable[[], T | None], timeout_s: float = ..., every_s: float = ...) -> T: ...
async def eventually(condition: Callable[[], object], timeout_s: float = 10.0, every_s: float = 0.02) -> object:
    """The first truthy value of `condition`, asked every `every_s`; fails with its last value after `timeout_s`."""
    deadline = time.monotonic() + timeout_s
    while True:
        value = condition()
        if isinstance(value, Awaitable):
            value = await value
        if value:
            return value
        if time.monotonic() > deadline:
            raise AssertionError(f"not so within {timeout_s:g} s; last seen: {value!r}")
        await asyncio.sleep(every_s)


async def settled(look: Callable[[], T], expected: T, timeout_s: float = 10.0) -> None:
    """Waits until `look` gives `expected`; fails with the difference."""
    try:
        await eventually(lambda: look() == expected, timeout_s, every_s=0.05)
    except AssertionError:
        raise AssertionError(f"after {timeout_s:g} s: {look()!r}, not {expected!r}") from None
