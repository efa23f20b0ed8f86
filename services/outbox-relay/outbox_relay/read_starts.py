"""Where reads of the outbox may begin, so that they don't walk over rows that are long deleted.

While any old snapshot is open PostgreSQL can't remove deleted rows, and a read from id 0 steps over all of them.
Yet `id > last read` would skip a transaction that drew its ids early and commits late. What is safe:

1. Read the sequence's last value s, then draw a transaction id x of one's own. Append draws a transaction id before
   it draws a row id (its UPDATE comes first), so every transaction that drew a row id up to s has an id below x.
2. Later, look which transactions below x still run. Usually none; one that is idle for long is remembered instead.
3. Read once more from the old start, and see all of it published and deleted. Now a row up to s can come only from
   a remembered transaction, and reads may begin at s + 1 while each of these still runs *in the read's own
   snapshot*; once one has ended, at the old start again (`rows.PAGE` decides that in the same statement).

The snapshot's xmax would not do for x: it is one past the newest *finished* transaction, and a running one may have
a higher id.
"""

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ReadPosition:
    """Reads begin at `low` while every transaction of `running` still runs, else at `base`."""

    low: int = 0
    base: int = 0
    running: frozenset[int] = frozenset()


@dataclass(frozen=True, slots=True)
class EndedTransactionsHorizon:
    """Row ids up to `last_id` were drawn by transactions that have ended, but for those in `running`."""

    last_id: int
    running: frozenset[int]


@dataclass(frozen=True, slots=True)
class OutboxRead:
    """One read of some lanes, begun once `horizon` was known."""

    horizon: EndedTransactionsHorizon
    start: ReadPosition
    read_to: int | None
    """The last id read when a limit cut the read short, None when it saw the end."""


class LaneReadPositions:
    """The start of reads, lane by lane: a lane that waits for Kafka does not hold the others back."""

    def __init__(self) -> None:
        self._starts: dict[int, ReadPosition] = {}

    def read_position(self, lanes: Iterable[int]) -> ReadPosition:
        """Where one read of all these lanes begins; a lane that is new here begins at 0."""
        starts = [self._starts.get(lane, ReadPosition()) for lane in lanes]
        return ReadPosition(
            low=min(s.low for s in starts),
            base=min(s.base for s in starts),
            running=frozenset().union(*(s.running for s in starts)),
        )

    def advance_after_delete(self, lanes: Iterable[int], read: OutboxRead) -> None:
        """After a read of these lanes whose rows in them are all published and deleted. A lane that was forgotten since
        the read stays so."""
        horizon, start = read.horizon, read.start
        low = horizon.last_id + 1 if read.read_to is None else min(horizon.last_id, read.read_to) + 1
        if low <= start.low and horizon.running == start.running:
            return
        base = start.base if horizon.running else low
        for lane in lanes:
            if self._starts.get(lane, ReadPosition()).low >= start.low:
                self._starts[lane] = ReadPosition(low, base, horizon.running)

    def reset_to_zero(self, lanes: Iterable[int] | None = None) -> None:
        """Make the next read of these lanes (or of all) begin at 0: after a takeover, and now and then."""
        if lanes is None:
            self._starts.clear()
            return
        for lane in lanes:
            self._starts.pop(lane, None)
