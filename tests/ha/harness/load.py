"""Steady work on a fleet: runs, approvals and events of one's own, each noted with its begin and its end."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

from tests.ha.harness.callers import Callers
from tests.ha.harness.events import EventWriters
from tests.ha.harness.fleet import Fleet
from tests.ha.harness.items import Item, Kind, wait_for

FINAL = ("success", "error", "timeout", "cancelled")
DECIDED = ("completed", "failed", "rejected", "timeout", "cancelled")
HANDBOOK = "# Harbour\n\nEvery mooring line is inspected by the harbour master on the first Monday of a month.\n"
_QUERY = "Who inspects the mooring lines?"


@dataclass(frozen=True)
class Pace:
    """Seconds from one piece of work to the next: runs, approvals, events of each lane."""

    run_s: float = 1.5
    approval_s: float = 2.5
    event_s: float = 1.0


class Load:
    """All sessions of one load begin with `batch`."""

    def __init__(self, fleet: Fleet, callers: Callers, batch: str, pace: Pace) -> None:
        self.batch = batch
        self.callers = callers
        self.items: list[Item] = []
        self._fleet = fleet
        self._pace = pace
        self._stop = asyncio.Event()

    @asynccontextmanager
    async def flowing(self) -> AsyncIterator[None]:
        """Work as long as the block runs; then wait until all that was begun is over."""
        writers = EventWriters(self._fleet.servers, self.batch, self.note)
        async with asyncio.TaskGroup() as group:
            group.create_task(self._every(self._pace.run_s, self._run))
            group.create_task(self._every(self._pace.approval_s, self._approval))
            group.create_task(writers.write(self._stop, self._pace.event_s))
            try:
                yield
            finally:
                self._stop.set()

    def note(self, kind: Kind, place: str, name: str) -> Item:
        """Note that a piece of work begins."""
        item = Item(kind, place, name)
        self.items.append(item)
        return item

    async def _every(self, pause_s: float, work: Callable[[int], Awaitable[None]]) -> None:
        number = 0
        async with asyncio.TaskGroup() as group:
            while not self._stop.is_set():
                number += 1
                group.create_task(_awaited(work(number)))
                await wait_for(self._stop, pause_s)

    async def _run(self, number: int) -> None:
        session = f"{self.batch}-run-{number}"
        item = self.note("run", "", session)
        path = f"/v1/sessions/{session}/runs"
        begun = await self.callers.ask("POST", path, json={"query": _QUERY}, headers={"Idempotency-Key": session})
        item.end((await self.callers.until(f"/v1/runs/{begun['run_id']}", FINAL))["status"])

    async def _approval(self, number: int) -> None:
        session = f"{self.batch}-approval-{number}"
        item = self.note("approval", "", session)
        body = {
            "action": "echo",
            "description": "A trial",
            "args": {"text": session},
            "risk_level": "high",
            "session_id": session,
        }
        begun = await self.callers.ask("POST", "/v1/actions", json=body, headers={"Idempotency-Key": session})
        action = begun["action_id"]
        shown = await self.callers.until(f"/v1/approvals/{action}", ("pending",), person="bob")
        vote = {"decision": "approve", "content_hash": shown["content_hash"]}
        await self.callers.ask("POST", f"/v1/approvals/{action}/decision", person="bob", json=vote)
        item.end((await self.callers.until(f"/v1/actions/{action}", DECIDED))["status"])


async def _awaited(work: Awaitable[None]) -> None:
    await work


async def add_handbook(callers: Callers) -> None:
    """Add the document that the questions are about."""
    files = {"file": ("harbour.md", HANDBOOK.encode(), "text/markdown")}
    await callers.ask("POST", "/v1/documents", files=files)
