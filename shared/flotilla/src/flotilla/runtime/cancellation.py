"""Cancelling for sure.

Before Python 3.12 `asyncio.wait_for`, which redis-py sends its commands under, swallows a cancellation that arrives
just as the command is sent (https://github.com/python/cpython/issues/86296). So one `cancel` may do nothing.
"""

import asyncio
from collections.abc import Iterable
from typing import Any

_AGAIN_AFTER_S = 0.2


async def cancel_all(tasks: Iterable[asyncio.Task[Any]]) -> None:
    """Cancel the tasks until each has ended; what they raised stays in them."""
    left = {task for task in tasks if not task.done()}
    while left:
        for task in left:
            task.cancel()
        _, left = await asyncio.wait(left, timeout=_AGAIN_AFTER_S)
