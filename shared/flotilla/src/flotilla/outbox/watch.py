"""Finds horizons for `low.SafeLow`: a few statements a second while rows come, one while none do."""

import time
from collections.abc import Callable

from flotilla.outbox.low import Horizon
from flotilla.outbox.rows import draw_horizon, look_at_horizon
from flotilla.postgres import Pool

_DRAW_EVERY_S = 0.5
_LOOK_EVERY_S = 0.05
_PATIENCE_S = 1.0
"""How long short transactions get to end, before those that still run are remembered as long ones."""


class HorizonWatch:
    """Draws a horizon, waits for older transactions to end, and gives each horizon once."""

    def __init__(self, pool: Pool, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._pool = pool
        self._monotonic = monotonic
        self._drawn: tuple[int, int] | None = None
        self._drawn_at = 0.0
        self._looked_at = 0.0
        self._given: Horizon | None = None

    async def next(self) -> Horizon | None:
        """A horizon that is known before the read that follows, or None when there is no new one."""
        now = self._monotonic()
        if self._drawn is None:
            if now - self._drawn_at >= _DRAW_EVERY_S:
                await self._draw(now)
            return None
        if now - self._looked_at < _LOOK_EVERY_S:
            return None
        self._looked_at = now
        horizon = await look_at_horizon(self._pool, *self._drawn)
        if horizon.running and now - self._drawn_at < _PATIENCE_S:
            return None
        self._drawn = None
        self._given = horizon
        return horizon

    async def _draw(self, now: float) -> None:
        self._drawn_at = now
        known = self._given.last_id if self._given is not None and not self._given.running else None
        self._drawn = await draw_horizon(self._pool, above=known)
