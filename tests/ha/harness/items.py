"""Pieces of work, as they are noted for the judge."""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

Kind = Literal["run", "approval", "event"]


@dataclass
class Item:
    """One piece of work, from its first request to its last effect. Times are monotonic."""

    kind: Kind
    place: str
    """Works of one kind and place use the same parts of the fleet: the lane of an event."""
    name: str
    began: float = field(default_factory=time.monotonic)
    over: float | None = None
    outcome: str = ""

    def end(self, outcome: str) -> None:
        self.over, self.outcome = time.monotonic(), outcome


Note: TypeAlias = Callable[[Kind, str, str], Item]
"""Notes that a piece of work begins: its kind, place and name."""


async def wait_for(event: asyncio.Event, timeout_s: float) -> None:
    """Return when the event is set, or after `timeout_s`."""
    try:
        async with asyncio.timeout(timeout_s):
            await event.wait()
    except TimeoutError:
        return
