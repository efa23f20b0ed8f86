"""Reads that begin above 0 lose nothing and keep the order, whatever transactions do meanwhile.

A model of PostgreSQL's snapshots and of writers that behave as `append` does (transaction id first, session lock
held to the end, row ids under it), against the relay's rule for where reads begin.
"""

from dataclasses import dataclass, field

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from outbox_relay.read_starts import EndedTransactionsHorizon, LaneReadPositions, OutboxRead, ReadPosition
from tests.support.properties import examples

SESSIONS = ("a", "b", "c")
LANE = 0


@dataclass
class Transaction:
    """A writer's transaction and the rows that it has inserted."""

    xid: int
    session: str
    rows: list[int] = field(default_factory=list)


class Outbox(RuleBasedStateMachine):
    """One lane, one relay, any number of writers."""

    def __init__(self) -> None:
        super().__init__()
        self.next_xid = 100
        self.last_row = 0
        self.running: list[Transaction] = []
        self.visible: dict[int, str] = {}
        self.committed: dict[str, list[int]] = {session: [] for session in SESSIONS}
        self.published: dict[str, list[int]] = {session: [] for session in SESSIONS}
        self.low = LaneReadPositions()
        self.newest = EndedTransactionsHorizon(0, frozenset())
        self.drawn: tuple[int, int] | None = None
        self.flight: tuple[list[int], OutboxRead] | None = None

    @initialize()
    def one_row_exists(self) -> None:
        self.begin("a")
        self.insert(0)
        self.commit(0)

    @rule(session=st.sampled_from(SESSIONS))
    def begin(self, session: str) -> None:
        if all(writer.session != session for writer in self.running):
            self.running.append(Transaction(self.draw_xid(), session))

    @precondition(lambda self: self.running)
    @rule(which=st.integers(0, 9))
    def insert(self, which: int) -> None:
        self.last_row += 1
        self.running[which % len(self.running)].rows.append(self.last_row)

    @precondition(lambda self: self.running)
    @rule(which=st.integers(0, 9))
    def commit(self, which: int) -> None:
        ended = self.running.pop(which % len(self.running))
        self.committed[ended.session] += ended.rows
        self.visible |= dict.fromkeys(ended.rows, ended.session)

    @precondition(lambda self: self.running)
    @rule(which=st.integers(0, 9))
    def roll_back(self, which: int) -> None:
        self.running.pop(which % len(self.running))

    @rule()
    def draw_horizon(self) -> None:
        self.drawn = (self.last_row, self.draw_xid())

    @precondition(lambda self: self.drawn is not None)
    @rule()
    def look_at_horizon(self) -> None:
        assert self.drawn is not None
        last_id, own_xid = self.drawn
        self.newest = EndedTransactionsHorizon(last_id, frozenset(t.xid for t in self.running if t.xid < own_xid))
        self.drawn = None

    @precondition(lambda self: self.flight is None)
    @rule(limit=st.integers(1, 4))
    def relay_reads(self, limit: int) -> None:
        start = self.low.read_position([LANE])
        page = self.rows_from(start)[:limit]
        self.flight = page, OutboxRead(self.newest, start, page[-1] if len(page) == limit else None)

    @precondition(lambda self: self.flight is not None)
    @rule()
    def kafka_acknowledges(self) -> None:
        assert self.flight is not None
        page, read = self.flight
        for row in page:
            self.published[self.visible.pop(row)].append(row)
        self.low.advance_after_delete([LANE], read)
        self.flight = None

    @rule()
    def relay_sweeps(self) -> None:
        self.low.reset_to_zero()

    def rows_from(self, start: ReadPosition) -> list[int]:
        still_running = {t.xid for t in self.running}
        begin = start.low if start.running <= still_running else start.base
        return sorted(row for row in self.visible if row >= begin)

    def draw_xid(self) -> int:
        self.next_xid += 1
        return self.next_xid

    @invariant()
    def no_row_is_passed_over(self) -> None:
        assert self.rows_from(self.low.read_position([LANE])) == sorted(self.visible)

    @invariant()
    def sessions_are_published_in_order(self) -> None:
        for session in SESSIONS:
            published = self.published[session]
            assert published == self.committed[session][: len(published)]


TestOutbox = Outbox.TestCase
TestOutbox.settings = settings(max_examples=examples(300), stateful_step_count=60, deadline=None)


def test_reads_begin_above_deleted_rows_once_older_transactions_ended() -> None:
    starts = LaneReadPositions()
    starts.advance_after_delete(
        [LANE], OutboxRead(EndedTransactionsHorizon(1000, frozenset()), starts.read_position([LANE]), None)
    )
    assert starts.read_position([LANE]) == ReadPosition(low=1001, base=1001)


def test_an_idle_transaction_does_not_keep_reads_at_the_old_start() -> None:
    starts = LaneReadPositions()
    starts.advance_after_delete(
        [LANE], OutboxRead(EndedTransactionsHorizon(1000, frozenset({7})), starts.read_position([LANE]), None)
    )
    assert starts.read_position([LANE]) == ReadPosition(low=1001, base=0, running=frozenset({7}))


def test_a_read_that_was_cut_short_raises_only_to_its_end() -> None:
    starts = LaneReadPositions()
    starts.advance_after_delete(
        [LANE], OutboxRead(EndedTransactionsHorizon(1000, frozenset()), starts.read_position([LANE]), 400)
    )
    assert starts.read_position([LANE]).low == 401


def test_a_read_beyond_the_horizon_raises_only_to_the_horizon() -> None:
    starts = LaneReadPositions()
    starts.advance_after_delete(
        [LANE], OutboxRead(EndedTransactionsHorizon(1000, frozenset()), starts.read_position([LANE]), 2000)
    )
    assert starts.read_position([LANE]).low == 1001


def test_a_lane_that_was_forgotten_during_a_read_stays_forgotten() -> None:
    starts = LaneReadPositions()
    starts.advance_after_delete(
        [LANE], OutboxRead(EndedTransactionsHorizon(1000, frozenset()), starts.read_position([LANE]), None)
    )
    read = OutboxRead(EndedTransactionsHorizon(2000, frozenset()), starts.read_position([LANE]), None)
    starts.reset_to_zero()
    starts.advance_after_delete([LANE], read)
    assert starts.read_position([LANE]).low == 0


def test_a_lane_that_waits_keeps_its_own_start() -> None:
    starts = LaneReadPositions()
    starts.advance_after_delete(
        [1, 2], OutboxRead(EndedTransactionsHorizon(1000, frozenset()), starts.read_position([1, 2, 3]), None)
    )
    assert starts.read_position([1, 2]).low == 1001
    assert starts.read_position([1, 2, 3]).low == 0
