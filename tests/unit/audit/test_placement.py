"""However duplicates and disorder mix up a log, what is appended is the log."""

import itertools
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from hashlib import sha256
from uuid import UUID

from hypothesis import given
from hypothesis import strategies as st

from audit_consumer.placement import ChainHead, EventPlacer, KnownEvent, SessionPlacement
from audit_consumer.records import EventCandidate
from flotilla.audit.proof import genesis_hash
from tests.support.properties import patient

TIME = datetime(2026, 1, 1, tzinfo=UTC)


def candidate(seq: int, variant: int = 0, *, known: bool = True, parent: str | None = None) -> EventCandidate:
    return EventCandidate(
        "default",
        "s1",
        seq,
        UUID(int=seq * 10 + variant),
        "t",
        TIME,
        None,
        None,
        0,
        seq,
        f"{seq}/{variant}".encode(),
        known,
        None,
        parent_session_id=parent,
    )


def place(candidates: Sequence[EventCandidate]) -> SessionPlacement:
    placer = EventPlacer(None, {})
    for one in candidates:
        placer.place_event(one)
    return placer.final_placement()


class Database:
    """What is kept between batches."""

    def __init__(self) -> None:
        self.head: ChainHead | None = None
        self.stored: dict[int, KnownEvent] = {}
        self.hashes: list[bytes] = []
        self.seqs: list[int] = []
        self.parked: list[tuple[EventCandidate, str]] = []
        self.duplicates = 0
        self.conflicts = 0

    def batch(self, candidates: Sequence[EventCandidate]) -> None:
        head = replace(self.head) if self.head else None
        placer = EventPlacer(head, self.stored, (), self.parked)
        for one in candidates:
            placer.place_event(one)
        result = placer.final_placement()
        for one, chain_hash in result.appended:
            self.stored[one.seq] = KnownEvent(one.event_id, one.body)
            self.seqs.append(one.seq)
            self.hashes.append(chain_hash)
        self.head = result.head
        self.parked = [(one, reason) for one, reason, _ in result.parked]
        self.duplicates += result.duplicates
        self.conflicts += result.conflicts


@st.composite
def deliveries(draw: st.DrawFn) -> tuple[int, list[list[EventCandidate]]]:
    """A log of n events as it may arrive: any order, any repetition, cut into batches anywhere."""
    length = draw(st.integers(1, 12))
    seqs = draw(st.permutations(range(1, length + 1)))
    again = draw(st.lists(st.integers(1, length), max_size=8))
    arriving = [candidate(seq) for seq in draw(st.permutations([*seqs, *again]))]
    cuts = sorted(draw(st.sets(st.integers(0, len(arriving)), max_size=4)) | {0, len(arriving)})
    return length, [arriving[start:end] for start, end in itertools.pairwise(cuts)]


@patient
@given(deliveries())
def test_any_order_and_any_repetition_end_in_the_same_chain(delivery: tuple[int, list[list[EventCandidate]]]) -> None:
    length, batches = delivery
    database = Database()
    for batch in batches:
        database.batch(batch)
    assert database.seqs == list(range(1, length + 1))
    assert database.parked == []
    assert database.conflicts == 0
    assert database.duplicates == sum(map(len, batches)) - length
    chain = genesis_hash("default", "s1")
    for seq, chain_hash in enumerate(database.hashes, start=1):
        chain = sha256(chain + f"{seq}/0".encode()).digest()
        assert chain_hash == chain


@patient
@given(deliveries(), st.data())
def test_another_event_under_a_taken_seq_never_gets_in_and_stops_its_session(
    delivery: tuple[int, list[list[EventCandidate]]], data: st.DataObject
) -> None:
    length, batches = delivery
    arriving = [one for batch in batches for one in batch]
    taken = data.draw(st.integers(1, length))
    first = next(index for index, one in enumerate(arriving) if one.seq == taken)
    at = data.draw(st.integers(first + 1, len(arriving)))
    arriving.insert(at, candidate(taken, variant=1))
    database = Database()
    for one in arriving:
        database.batch([one])
    assert database.conflicts == 1
    assert ("conflict") in [reason for _, reason in database.parked]
    assert all(stored.event_id == UUID(int=seq * 10) for seq, stored in database.stored.items())
    assert database.seqs == list(range(1, len(database.seqs) + 1))


def test_a_gap_counts_what_is_missing_once() -> None:
    placer = EventPlacer(None, {})
    for seq in (1, 4, 5):
        placer.place_event(candidate(seq))
    result = placer.final_placement()
    assert [one.seq for one, _ in result.appended] == [1]
    assert [(one.seq, reason) for one, reason, _ in result.parked] == [(4, "gap"), (5, "gap")]
    assert result.missing == 2
    again = EventPlacer(result.head, {}, (), [(one, reason) for one, reason, _ in result.parked])
    again.place_event(candidate(7))
    assert again.final_placement().missing == 0


def test_the_same_id_with_other_content_is_a_conflict() -> None:
    changed = candidate(1)
    changed.body = b"changed"
    result = place([candidate(1), changed])
    assert result.conflicts == 1
    assert "with other content" in result.parked[0][2]


def test_an_unknown_type_holds_back_its_session_only_from_its_place_on() -> None:
    result = place([candidate(1), candidate(3), candidate(2, known=False)])
    assert [one.seq for one, _ in result.appended] == [1]
    assert [(one.seq, reason) for one, reason, _ in result.parked] == [(2, "unknown_type"), (3, "waiting")]


def test_a_fork_starts_behind_its_parents_prefix_with_a_chain_of_its_own() -> None:
    result = place([candidate(8), candidate(7, parent="p")])
    assert [one.seq for one, _ in result.appended] == [7, 8]
    assert result.appended[0][1] == sha256(genesis_hash("default", "s1", "p", 6) + b"7/0").digest()
    assert result.head is not None
    assert (result.head.first_seq, result.head.parent_session_id) == (7, "p")


def test_an_event_that_is_no_beginning_waits() -> None:
    result = place([candidate(7)])
    assert result.head is None
    assert [(one.seq, reason) for one, reason, _ in result.parked] == [(7, "gap")]


def test_a_discarded_event_that_comes_again_is_dropped() -> None:
    other = candidate(2, variant=1)
    placer = EventPlacer(None, {}, [KnownEvent(other.event_id, other.body)])
    for one in (candidate(1), candidate(2), candidate(2, variant=1), candidate(3)):
        placer.place_event(one)
    assert [one.seq for one, _ in placer.final_placement().appended] == [1, 2, 3]


def test_an_event_from_another_partition_than_its_sessions_is_a_conflict() -> None:
    stray = candidate(2)
    stray.partition = 5
    assert place([candidate(1), stray]).conflicts == 1
