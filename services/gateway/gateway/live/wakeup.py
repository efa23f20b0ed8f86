"""Wakes one follower of a run, and tells it where to look."""

import asyncio
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class PendingChanges:
    """Where to look."""

    live: bool
    """On the run's live stream."""
    log: bool
    """In the session's log."""
    end: bool
    """At the run's status: it may be over."""
    access: bool
    """At who may read the session."""


class FollowerWakeup:
    """Notified any number of times, awaited by one follower. The first wait returns at once."""

    def __init__(self) -> None:
        self._event = asyncio.Event()
        self._live = self._log = self._end = self._access = True
        self._event.set()

    def notify(self, *, live: bool = False, log: bool = False, end: bool = False, access: bool = False) -> None:
        """Wake the follower, to look at these; with none of them, to look whether it should stop."""
        self._live |= live
        self._log |= log
        self._end |= end
        self._access |= access
        self._event.set()

    async def wait(self, timeout_s: float) -> PendingChanges:
        """Wait to be notified, for at most `timeout_s`, and return what is pending."""
        try:
            async with asyncio.timeout(timeout_s):
                await self._event.wait()
        except TimeoutError:
            pass
        self._event.clear()
        pending = PendingChanges(self._live, self._log, self._end, self._access)
        self._live = self._log = self._end = self._access = False
        return pending
