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

    async def turn(self) -> None:
        """Wait for the call's turn.

        Raises:
            ModelUnavailable: it would come later than in a minute.
        """
        now = self._clock()
        at = max(now, self._next_at)
        if at - now > LONGEST_QUEUE_S:
            raise ModelUnavailable(f"model {self._model}: its rate limit is used up", retry_after_s=at - now)
        self._next_at = at + self._between_s
        if at > now:
            await asyncio.sleep(at - now)
