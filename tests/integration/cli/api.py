"""Waits on the gateway itself: a poll by the command would cost a process each time."""

from collections.abc import Callable
from typing import Any

import httpx

from tests.e2e.fleet import Fleet
from tests.support.waiting import eventually


async def until(
    fleet: Fleet, path: str, found: Callable[[Any], Any], *, name: str = "alice", timeout_s: float = 60
) -> Any:
    """What `found` makes of `GET path`, once that is something; anything but a 200 counts as nothing yet."""
    async with fleet.client(name) as client:

        async def ask() -> Any:
            try:
                answer = await client.get(f"/v1{path}")
            except httpx.TransportError:
                return None
            return found(answer.json()) if answer.status_code == 200 else None

        return await eventually(ask, timeout_s=timeout_s, every_s=0.2)
