"""The fleet's outbox gauges, with one reporter: the relay that holds lane 0, or any that Kafka keeps from working."""

import time

from flotilla.outbox.parked import count_outbox_backlog, count_parked_sessions
from flotilla.postgres import Pool
from flotilla.telemetry.metrics import OUTBOX_BACKLOG, OUTBOX_OLDEST, OUTBOX_PARKED

_REPORT_INTERVAL_S = 5.0


class OutboxGauges:
    """Backlog, age of the oldest row, parked sessions; zero while another relay reports them."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._reported_at = float("-inf")

    async def report_if_responsible(self, *, responsible: bool) -> None:
        """Read and set the gauges, every 5 s at most."""
        if not responsible:
            self.zero_gauges()
            return
        if time.monotonic() - self._reported_at < _REPORT_INTERVAL_S:
            return
        self._reported_at = time.monotonic()
        rows, oldest_s = await count_outbox_backlog(self._pool)
        OUTBOX_BACKLOG.set(rows)
        OUTBOX_OLDEST.set(oldest_s)
        OUTBOX_PARKED.set(await count_parked_sessions(self._pool))

    def zero_gauges(self) -> None:
        """Leave the report to another relay."""
        if self._reported_at != float("-inf"):
            self._reported_at = float("-inf")
            for gauge in (OUTBOX_BACKLOG, OUTBOX_OLDEST, OUTBOX_PARKED):
                gauge.set(0)
