"""Where events go, decided without I/O: appended to their session's chain, dropped as duplicates, or parked.

    same seq, same event, same bytes    duplicate: the relay sent it again; dropped
    same seq, another event             conflict: a person must look; the session is parked
    seq beyond the next                 gap: it waits until the missing ones come
    a type this version can't read      the session waits for an upgrade
    a kind its source may not write     forbidden: a person must look; the session waits from there on

Parked events never hold up their partition, only their session.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal, TypeAlias
from uuid import UUID

from audit_consumer.records import EventCandidate
from flotilla.audit.proof import genesis_hash, next_chain_hash

ParkReason: TypeAlias = Literal["gap", "conflict", "unknown_type", "forbidden", "waiting"]


@dataclass(slots=True)
class ChainHead:
    """The newest event of a session's chain."""

    seq: int
    hash: bytes
    first_seq: int
    first_offset: int
    parent_session_id: str | None
    snapshot_seq: int
    partition: int


@dataclass(frozen=True, slots=True)
class KnownEvent:
    """What identifies an event that is in the projection, or was set aside by a person."""

    event_id: UUID
    body: bytes


@dataclass(slots=True)
class SessionPlacement:
    """What is to be done for one session."""

    head: ChainHead | None
    appended: list[tuple[EventCandidate, bytes]] = field(default_factory=list)
    """Events with their chain hashes, in order of seq."""
    parked: list[tuple[EventCandidate, ParkReason, str]] = field(default_factory=list)
    """All that wait from now on, those that waited before included."""
    duplicates: int = 0
    conflicts: int = 0
    """New ones."""
    missing: int = 0
    """How many sequence numbers a new gap lacks."""


class EventPlacer:
    """Places the events of one session, in the order in which Kafka has them."""

    def __init__(
        self,
        head: ChainHead | None,
        stored: Mapping[int, KnownEvent],
        discarded: Iterable[KnownEvent] = (),
        parked: Iterable[tuple[EventCandidate, str]] = (),
    ) -> None:
        """`stored` holds the projected events whose seq comes again; `parked` those that wait, with their reasons."""
        self._head = head
        self._taken: dict[int, KnownEvent | EventCandidate] = dict(stored)
        self._discarded = {(one.event_id, one.body) for one in discarded}
        self._waiting: dict[int, EventCandidate] = {}
        self._conflicts: list[tuple[EventCandidate, str]] = []
        self._result = SessionPlacement(head)
        self._was_parked = False
        for candidate, reason in parked:
            self._was_parked = True
            self._park_again(candidate, reason)

    def place_event(self, candidate: EventCandidate) -> None:
        """Place one event that Kafka has after all those before."""
        if (candidate.event_id, candidate.body) in self._discarded:
            self._result.duplicates += 1
        elif self._head is not None and candidate.partition != self._head.partition:
            self._add_conflict(candidate, f"its session lives in partition {self._head.partition}, not here")
        elif self._head is not None and candidate.seq <= self._head.seq:
            self._place_repeated_seq(candidate, self._taken.get(candidate.seq))
        elif (waiting := self._waiting.get(candidate.seq)) is not None:
            self._place_repeated_seq(candidate, waiting)
        else:
            self._waiting[candidate.seq] = candidate
            self._append_waiting_that_follow()

    def append_set_aside_event(self, candidate: EventCandidate) -> None:
        """Let a forbidden event that a person set aside keep its place: without it, the chain would have a hole."""
        self._waiting[candidate.seq] = candidate
        self._append_waiting_that_follow()

    def final_placement(self) -> SessionPlacement:
        """What came of it."""
        self._append_waiting_that_follow()
        result = self._result
        result.head = self._head
        result.parked = [(candidate, "conflict", detail) for candidate, detail in self._conflicts]
        result.parked += [
            (c, *self._why_parked(c))
            for _, c in sorted(self._waiting.items())
            if (c.event_id, c.body) not in self._discarded
        ]
        if self._waiting and not self._was_parked and not self._conflicts:
            result.missing = max(min(self._waiting) - self._next_seq(), 0)
        return result

    def _park_again(self, candidate: EventCandidate, reason: str) -> None:
        if reason != "conflict":
            self.place_event(candidate)
            return
        if _is_same_event(self._taken.get(candidate.seq), candidate):
            self._result.duplicates += 1
        else:
            self._conflicts.append((candidate, f"seq {candidate.seq} is taken by another event"))

    def _add_conflict(self, candidate: EventCandidate, detail: str) -> None:
        self._conflicts.append((candidate, detail))
        self._result.conflicts += 1

    def _place_repeated_seq(self, candidate: EventCandidate, known: KnownEvent | EventCandidate | None) -> None:
        if _is_same_event(known, candidate) or any(_is_same_event(other, candidate) for other, _ in self._conflicts):
            self._result.duplicates += 1
            return
        if known is None:
            what = "by an event that is not in the projection: run `flotilla audit verify`"
        else:
            what = "with other content" if known.event_id == candidate.event_id else f"by event {known.event_id}"
        self._add_conflict(candidate, f"seq {candidate.seq} is taken {what}")

    def _append_waiting_that_follow(self) -> None:
        while not self._conflicts:
            candidate = self._waiting.get(self._next_seq()) if self._head else self._find_first_event()
            if candidate is None or not candidate.known or candidate.forbidden is not None:
                return
            del self._waiting[candidate.seq]
            self._append_to_chain(candidate)

    def _find_first_event(self) -> EventCandidate | None:
        """The event that a session's chain can start with: seq 1, or the first own event of a fork."""
        openings = [c for c in self._waiting.values() if c.seq == 1 or c.parent_session_id is not None]
        return min(openings, key=lambda c: c.offset) if openings else None

    def _append_to_chain(self, candidate: EventCandidate) -> None:
        if self._head is None:
            at_seq = candidate.seq - 1 if candidate.parent_session_id else 0
            start = genesis_hash(candidate.tenant_id, candidate.session_id, candidate.parent_session_id, at_seq)
            self._head = ChainHead(
                candidate.seq,
                next_chain_hash(start, candidate.body),
                first_seq=candidate.seq,
                first_offset=candidate.offset,
                parent_session_id=candidate.parent_session_id,
                snapshot_seq=candidate.seq - 1,
                partition=candidate.partition,
            )
        else:
            self._head.seq = candidate.seq
            self._head.hash = next_chain_hash(self._head.hash, candidate.body)
        self._taken[candidate.seq] = candidate
        self._result.appended.append((candidate, self._head.hash))

    def _next_seq(self) -> int:
        return self._head.seq + 1 if self._head else 1

    def _why_parked(self, candidate: EventCandidate) -> tuple[ParkReason, str]:
        if candidate.forbidden is not None:
            return "forbidden", candidate.forbidden
        if not candidate.known:
            return "unknown_type", f"this version can't read type {candidate.type}: upgrade the audit consumer"
        if self._conflicts:
            return "waiting", "behind a conflict of its session"
        if candidate.seq > self._next_seq() and self._next_seq() not in self._waiting:
            return "gap", f"seq {self._next_seq()} is missing"
        return "waiting", "behind an event of its session that waits"


def _is_same_event(known: KnownEvent | EventCandidate | None, candidate: EventCandidate) -> bool:
    return known is not None and (known.event_id, known.body) == (candidate.event_id, candidate.body)
