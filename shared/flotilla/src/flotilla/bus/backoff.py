"""Waits that grow while the other side is away, with jitter, and that `stop` ends at once."""

import asyncio
import random

from flotilla.runtime.stopping import sleep_or_stop


class Backoff:
    """Doubles from `base_s` to `cap_s`; `reset` after the first success."""

    def __init__(self, *, base_s: float, cap_s: float) -> None:
        self._base_s = base_s
        self._cap_s = cap_s
        self._failures = 0

    @property
    def has_not_failed(self) -> bool:
        """Whether nothing has failed since the last success."""
        return self._failures == 0

    def reset(self) -> None:
        """The other side answered."""
        self._failures = 0

    def next_wait_s(self) -> float:
        """The next wait, in seconds."""
        wait_s = min(self._cap_s, self._base_s * 2.0 ** min(self._failures, 16))
        self._failures += 1
        return wait_s * random.uniform(0.5, 1.0)  # noqa: S311 - jitter

    async def wait_or_stop(self, stop: asyncio.Event) -> None:
        """Wait, but no longer than until `stop` is set."""
        await sleep_or_stop(stop, self.next_wait_s())
