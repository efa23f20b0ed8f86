"""A rate limit that queues: calls take their turns, evenly spaced, in the order in which they came."""

import asyncio
import time
from collections.abc import Callable

from flotilla.llm.model import ModelUnavailable

LONGEST_QUEUE_S = 60.0


class Pace:
    """Of one model in one process."""

    def __init__(self, model: str, per_minute: float | None, clock: Callable[[], float] = time.monotonic) -> None:
        self._model = model
        self._between_s = 60 / per_minute if per_minute else 0.0
        self._clock = clock
        self._next_at = 0.0
        self._waiting = 0
        self._first = asyncio.Lock()
        """Held by the call whose turn is next; others get it in the order in which they came."""

    async def turn(self) -> None:
        """Wait for the call's turn.

        Raises:
            ModelUnavailable: it would come later than in a minute.
        """
        wait_s = max(0.0, self._next_at - self._clock()) + self._waiting * self._between_s
        if wait_s > LONGEST_QUEUE_S:
            raise ModelUnavailable(f"model {self._model}: its rate limit is used up", retry_after_s=wait_s)
        self._waiting += 1
        try:
            async with self._first:
                # A turn is taken only at its time, so that a call that was cancelled before takes none.
                if (wait_s := self._next_at - self._clock()) > 0:
                    await asyncio.sleep(wait_s)
                self._next_at = max(self._clock(), self._next_at) + self._between_s
        finally:
            self._waiting -= 1
