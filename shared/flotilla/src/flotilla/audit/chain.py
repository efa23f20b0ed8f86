"""Checks the hash chain of one session; the standalone verifier uses the same code."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal, TypeAlias

import msgspec

from flotilla.audit.proof import genesis_hash, next_chain_hash
from flotilla.contracts.event_rules import write_violation_of_data

ProblemKind: TypeAlias = Literal[
    "edited",
    "deleted",
    "swapped",
    "truncated",
    "rewritten",
    "added",
    "head",
    "copy",
    "lineage",
    "checkpoint",
    "forbidden",
    "votes",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class ChainProblem:
    """The first thing that is wrong with a session, or something that is wrong with a checkpoint.

    edited: the event's bytes are not those that were chained. deleted: it is missing. swapped: another event is in
    its place. truncated: it and all after it are missing. rewritten: the chain is consistent, but is not the one that
    was signed. added: Kafka has no such event. head, copy, lineage: the session's head row, the JSON copy, or the
    parent does not agree with the events. checkpoint: a checkpoint is missing, changed or not signed by a known key.
    forbidden: it is as it was committed, but its source may not write events of this kind. votes: the signature of a
    vote does not hold, or an approval has fewer signed votes than its policy asked for.
    """

    kind: ProblemKind
    detail: str
    session_id: str | None = None
    seq: int | None = None


@dataclass(frozen=True, slots=True)
class ExpectedChain:
    """The chain that a session should have: where it starts, and what was signed of it."""

    tenant_id: str
    session_id: str
    parent_session_id: str | None
    after_seq: int
    """0, or the parent's seq at which it was forked: the chain starts behind it."""
    anchors: Mapping[int, bytes]
    """Hashes by seq, from signed checkpoints."""
    archived: tuple[int, bytes] | None = None
    """The newest event that is in an archive, and its hash: the next one follows from it."""


@dataclass(frozen=True, slots=True)
class ChainedEvent:
    """An event as stored, with the hash beside it."""

    seq: int
    hash: bytes
    body: bytes


class ChainChecker:
    """Takes the events of a chain in order of seq, and stops looking at the first problem."""

    def __init__(self, chain: ExpectedChain) -> None:
        self._chain = chain
        self.problem: ChainProblem | None = None
        self.last_seq = chain.after_seq
        """The newest event that was found good."""
        self.last_hash = genesis_hash(chain.tenant_id, chain.session_id, chain.parent_session_id, chain.after_seq)
        self.anchored_seq = chain.after_seq
        """The newest good event that a checkpoint covers."""
        self.events = 0
        if chain.archived is not None:
            self._continue_after_archive(*chain.archived)

    def _continue_after_archive(self, seq: int, archived_hash: bytes) -> None:
        if self._chain.anchors.get(seq) != archived_hash:
            self.problem = self._make_problem(
                "rewritten", seq, "no signed checkpoint has this hash for what was archived"
            )
        self.last_seq = self.anchored_seq = seq
        self.last_hash = archived_hash

    def check_events(self, events: Iterable[ChainedEvent]) -> None:
        """Check each event, as `check_event`."""
        for event in events:
            self.check_event(event)

    def check_event(self, event: ChainedEvent) -> None:
        """Check that the event is the next one, has the right number, follows from the one before, and was signed."""
        self.events += 1
        if self.problem is not None:
            return
        self.problem = self._find_problem_of_event(event)
        if self.problem is None:
            self.last_seq, self.last_hash = event.seq, event.hash
            if event.seq in self._chain.anchors:
                self.anchored_seq = event.seq

    def check_end_of_chain(self, upto_seq: int | None = None) -> None:
        """After the last event: those that checkpoints have seen must all have been there (up to `upto_seq`)."""
        anchors = [seq for seq in self._chain.anchors if upto_seq is None or seq <= upto_seq]
        if self.problem is None and max(anchors, default=0) > self.last_seq:
            self.problem = self._make_problem(
                "truncated", self.last_seq + 1, f"a signed checkpoint has seen event {max(anchors)}, which is gone"
            )

    def _find_problem_of_event(self, event: ChainedEvent) -> ChainProblem | None:
        expected = self.last_seq + 1
        if event.seq != expected:
            return self._make_problem(
                "deleted", expected, f"event {expected} is missing: {event.seq} follows {self.last_seq}"
            )
        said = _decode_envelope(event.body)
        return (
            self._problem_if_altered(event, said)
            or self._problem_if_rewritten(event)
            or self._problem_if_forbidden(event, said)
        )

    def _problem_if_altered(self, event: ChainedEvent, said: "_EventEnvelope | None") -> ChainProblem | None:
        if said is not None and (said.tenant, said.subject, said.sequence) != self._expected_place_of(event):
            detail = f"what stands here is event {said.sequence} of session {said.tenant}/{said.subject}"
            return self._make_problem("swapped", event.seq, detail)
        if next_chain_hash(self.last_hash, event.body) != event.hash:
            detail = f"its hash does not follow from event {self.last_seq} and its bytes"
            first = event.seq == self._chain.after_seq + 1
            return self._make_problem("edited", event.seq, f"first event: {detail}" if first else detail)
        return self._make_problem("edited", event.seq, "its bytes are not an event") if said is None else None

    def _problem_if_rewritten(self, event: ChainedEvent) -> ChainProblem | None:
        if self._chain.anchors.get(event.seq, event.hash) == event.hash:
            return None
        good = f"event {self.anchored_seq}" if self.anchored_seq else "the beginning"
        detail = f"a signed checkpoint has another hash for it; the chain was rewritten somewhere after {good}"
        return self._make_problem("rewritten", event.seq, detail)

    def _problem_if_forbidden(self, event: ChainedEvent, said: "_EventEnvelope | None") -> ChainProblem | None:
        session_id = self._chain.session_id
        problem = write_violation_of_data(said.source, said.type, said.data, session_id) if said is not None else None
        return None if problem is None else self._make_problem("forbidden", event.seq, problem)

    def _expected_place_of(self, event: ChainedEvent) -> tuple[str, str, int]:
        return self._chain.tenant_id, self._chain.session_id, event.seq

    def _make_problem(self, kind: ProblemKind, seq: int, detail: str) -> ChainProblem:
        return ChainProblem(kind=kind, detail=detail, session_id=self._chain.session_id, seq=seq)


class _EventEnvelope(msgspec.Struct, frozen=True):
    """What an event says of its own place, and of its maker."""

    tenant: str | None = None
    subject: str | None = None
    sequence: int | None = None
    source: str = ""
    type: str = ""
    data: msgspec.Raw = msgspec.Raw(b"{}")


_envelope_decoder = msgspec.json.Decoder(_EventEnvelope).decode


def _decode_envelope(body: bytes) -> _EventEnvelope | None:
    """The event's own words; None when it can't be read."""
    try:
        return _envelope_decoder(body)
    except (ValueError, RecursionError):
        return None
