"""Finds horizons for `read_starts.LaneReadPositions`: a few statements a second while rows come, one while none do."""

import time
from collections.abc import Callable

from flotilla.postgres import Connection
from outbox_relay.read_starts import EndedTransactionsHorizon
from outbox_relay.rows import draw_horizon, refresh_horizon

_DRAW_INTERVAL_S = 0.5
_CHECK_INTERVAL_S = 0.05
_SHORT_TRANSACTION_TIME_S = 1.0
"""How long short transactions get to end, before those that still run are remembered as long ones."""


class HorizonTracker:
    """Draws a horizon, waits for older transactions to end, and knows the newest horizon. It stays true."""

    def __init__(self, connection: Connection, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._connection = connection
        self._monotonic = monotonic
        self._drawn: tuple[int, int] | None = None
        self._drawn_at = self._looked_at = float("-inf")
        self._newest = EndedTransactionsHorizon(0, frozenset())

    async def newest_horizon(self) -> EndedTransactionsHorizon:
        """The newest horizon that is known before the statement that follows; looks for a newer one now and then."""
        now = self._monotonic()
        if self._drawn is None:
            if now - self._drawn_at >= _DRAW_INTERVAL_S:
                self._drawn_at = now
                self._drawn = await draw_horizon(self._connection, above=self._newest)
        elif now - self._looked_at >= _CHECK_INTERVAL_S:
            self._looked_at = now
            await self._check_drawn_horizon(self._drawn, patient=now - self._drawn_at < _SHORT_TRANSACTION_TIME_S)
        return self._newest

    async def _check_drawn_horizon(self, drawn: tuple[int, int], *, patient: bool) -> None:
        horizon = await refresh_horizon(self._connection, *drawn)
        if not horizon.running or not patient:
            self._newest = horizon
            self._drawn = None
