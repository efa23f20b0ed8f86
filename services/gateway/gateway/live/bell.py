"""Wakes one follower of a run, and says where there may be news."""

import asyncio
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class News:
    """Where to look."""

    live: bool
    """On the run's live stream."""
    log: bool
    """In the session's log."""
    end: bool
    """At the run's status: it may be over."""


class Bell:
    """Rung by whoever sees news, any number of times; answered by one follower. Rings once at the start."""

    def __init__(self) -> None:
        self._event = asyncio.Event()
        self._live = self._log = self._end = True
        self._event.set()

    def ring(self, *, live: bool = False, log: bool = False, end: bool = False) -> None:
        """There is news; none of them: a reason to look up."""
        self._live |= live
        self._log |= log
        self._end |= end
        self._event.set()

    async def answered(self, timeout_s: float) -> News:
        """Waits for a ring, no longer than `timeout_s`."""
        try:
            async with asyncio.timeout(timeout_s):
                await self._event.wait()
        except TimeoutError:
            pass
        self._event.clear()
        news = News(self._live, self._log, self._end)
        self._live = self._log = self._end = False
        return news
