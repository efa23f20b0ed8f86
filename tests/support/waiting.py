"""Waits for conditions; never for time."""

import asyncio
import inspect
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

T = TypeVar("T")


async def eventually(condition: Callable[[], T | Awaitable[T]], timeout_s: float = 10.0, every_s: float = 0.02) -> T:
    """The first truthy value of `condition`, asked every `every_s`; fails with its last value after `timeout_s`."""
    deadline = time.monotonic() + timeout_s
    while True:
        value = condition()
        if inspect.isawaitable(value):
            value = await value
        if value:
            return value
        if time.monotonic() > deadline:
            raise AssertionError(f"not so within {timeout_s:g} s; last seen: {value!r}")
        await asyncio.sleep(every_s)
