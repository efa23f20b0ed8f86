"""Takes over entries of consumers that went silent, and this consumer's own that a lost answer stranded."""

import random
import time
from collections.abc import Collection
from typing import Any

from flotilla.bus.connection import Redis, execute_redis_command
from flotilla.bus.entries import StreamEntry
from flotilla.telemetry.metrics import BUS_LOST_ENTRIES, BUS_RECLAIMED

FIRST_SCAN_CURSOR = "0-0"


class PendingEntriesScan:
    """One consumer's scan over the group's pending entries, every half of min-idle, with jitter."""

    def __init__(self, redis: Redis, stream: str, group: str, consumer: str, min_idle_ms: int) -> None:
        self._redis = redis
        self._stream = stream
        self._group = group
        self._consumer = consumer
        self._min_idle_ms = min_idle_ms
        self._cursor = FIRST_SCAN_CURSOR
        self._due = time.monotonic() + self._next_scan_interval_s() * random.random()  # noqa: S311 - jitter
        self._reclaimed = BUS_RECLAIMED.labels(stream, group)
        self._lost = BUS_LOST_ENTRIES.labels(stream, group)

    def _next_scan_interval_s(self) -> float:
        return self._min_idle_ms / 2_000 * random.uniform(0.8, 1.2)  # noqa: S311 - jitter, so that peers spread

    @property
    def is_mid_scan(self) -> bool:
        """Whether the last call stopped before the end of the pending entries: a call scans ten times its COUNT."""
        return self._cursor != FIRST_SCAN_CURSOR

    def next_scan_in_s(self) -> float:
        """Seconds until the next call should be made; 0 in the middle of a scan."""
        return 0.0 if self.is_mid_scan else max(0.0, self._due - time.monotonic())

    def scan_within(self, within_s: float) -> None:
        """Make the next scan start within `within_s`."""
        self._due = min(self._due, time.monotonic() + within_s)

    def restart_scan(self) -> None:
        """Forget the cursor: the group is a new one."""
        self._cursor = FIRST_SCAN_CURSOR

    async def take_orphaned_entries(self, count: int, in_hand: Collection[str]) -> list[StreamEntry]:
        """Up to `count` orphans that are not `in_hand` already, with how often each was delivered."""
        answer = await execute_redis_command(
            self._redis,
            "XAUTOCLAIM",
            self._stream,
            self._group,
            self._consumer,
            self._min_idle_ms,
            self._cursor,
            "COUNT",
            count,
        )
        self._cursor = answer[0].decode()
        if not self.is_mid_scan:
            self._due = time.monotonic() + self._next_scan_interval_s()
        # Redis 7 lists entries that were trimmed while pending, and drops them; 6.2 sent them without a body.
        self._lost.inc(len(answer[2]) if len(answer) > 2 else 0)  # noqa: PLR2004 - Redis 6.2 answers two parts
        taken = {entry_id.decode(): fields for entry_id, fields in answer[1] if fields is not None}
        orphans = {entry_id: fields for entry_id, fields in taken.items() if entry_id not in in_hand}
        if not orphans:
            return []
        self._reclaimed.inc(len(orphans))
        counts = await self._load_delivery_counts(list(orphans), len(taken) + len(in_hand))
        return [StreamEntry(entry_id, fields, counts.get(entry_id, 1)) for entry_id, fields in orphans.items()]

    async def _load_delivery_counts(self, entry_ids: list[str], at_most: int) -> dict[str, int]:
        """How often each of the claimed entries was delivered. XAUTOCLAIM gives them in order of id."""
        rows: Any = await self._redis.xpending_range(
            self._stream, self._group, entry_ids[0], entry_ids[-1], at_most, self._consumer
        )
        return {row["message_id"].decode(): int(row["times_delivered"]) for row in rows}
