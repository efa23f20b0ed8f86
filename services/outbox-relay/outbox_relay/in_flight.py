"""Batches under way: one lane's rows after another's acknowledgement, all lanes side by side."""

import asyncio
import time
from collections.abc import Iterable
from dataclasses import dataclass

from outbox_relay.publisher import KafkaPublisher
from outbox_relay.read_starts import OutboxRead
from outbox_relay.records import ProducerSpans, fill_record_batch
from outbox_relay.rows import OutboxRows


@dataclass(slots=True)
class InFlightBatch:
    """Rows of one lane on their way to Kafka, batch by batch; never two batches at once."""

    rows: OutboxRows
    read: OutboxRead
    began: float
    acked: int = 0
    """How many rows Kafka has acknowledged."""
    sent: int = 0
    """Index after the last row of the batch that was sent last."""
    error: BaseException | None = None
    """Why it ended before the last row."""

    @property
    def lane(self) -> int:
        return self.rows.lane

    async def send_all_rows(self, publisher: KafkaPublisher, max_batch_rows: int, *, traces: bool) -> None:
        """Send every row, each batch after the acknowledgement of the one before."""
        while self.acked < len(self.rows.ids):
            end = min(self.acked + max_batch_rows, len(self.rows.ids))
            with ProducerSpans(publisher.topic, self.lane, enabled=traces) as spans:
                batch = publisher.new_batch()
                self.sent = fill_record_batch(batch, self.rows, self.acked, end, spans)
                await publisher.send_batch(batch, self.lane)
            self.acked = self.sent


class InFlightBatches:
    """All that is under way."""

    def __init__(self, *, traces: bool) -> None:
        self._traces = traces
        self._under_way: dict[asyncio.Task[None], InFlightBatch] = {}
        self._new: set[asyncio.Task[None]] = set()

    @property
    def busy_lanes(self) -> set[int]:
        """Lanes that have rows under way; they must not be read meanwhile."""
        return {batch.lane for batch in self._under_way.values()}

    def oldest_batch_age_s(self) -> float:
        """How long the slowest has been under way; 0 when there is none."""
        return max((time.monotonic() - batch.began for batch in self._under_way.values()), default=0.0)

    def start_sending(self, publisher: KafkaPublisher, rows: OutboxRows, read: OutboxRead, max_batch_rows: int) -> None:
        """Start sending the rows of one lane, which `read` found."""
        batch = InFlightBatch(rows, read, time.monotonic())
        coroutine = batch.send_all_rows(publisher, max_batch_rows, traces=self._traces)
        task = asyncio.create_task(coroutine, name=f"lane-{rows.lane}")
        self._under_way[task] = batch
        self._new.add(task)

    async def wait_all(self, timeout_s: float) -> list[InFlightBatch]:
        """Those that have ended by when all launched since the last call have, or after `timeout_s`.

        One that is slow makes one call wait, not every call.
        """
        if tasks := self._new or set(self._under_way):
            await asyncio.wait(tasks, timeout=timeout_s)
        self._new = set()
        return self.take_finished()

    async def wait_any(self, timeout_s: float) -> list[InFlightBatch]:
        """Those that have ended by when one has, or after `timeout_s`."""
        if self._under_way:
            await asyncio.wait(self._under_way, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
        return self.take_finished()

    def take_finished(self) -> list[InFlightBatch]:
        """Those that have ended; waits for none."""
        return self._remove_finished([task for task in self._under_way if task.done()])

    async def abandon_all(self) -> list[InFlightBatch]:
        """Stop waiting for any; whether the batches in hand arrived stays unknown."""
        self._new = set()
        for task in self._under_way:
            task.cancel()
        if self._under_way:
            await asyncio.wait(self._under_way)
        return self._remove_finished(list(self._under_way))

    def _remove_finished(self, tasks: Iterable["asyncio.Task[None]"]) -> list[InFlightBatch]:
        finished = []
        for task in tasks:
            self._new.discard(task)
            batch = self._under_way.pop(task)
            batch.error = asyncio.CancelledError() if task.cancelled() else task.exception()
            finished.append(batch)
        return finished
