"""Compares the projection with Kafka's own copy of the log, event by event."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256

from aiokafka import ConsumerRecord

from flotilla.audit.chain import ChainProblem, ProblemKind
from flotilla.contracts.names import SESSION_EVENTS_PARTITIONS, session_key
from flotilla.eventstore.log import LineageSegment
from flotilla.kafka.lanes import lane_of_session
from flotilla.kafka.records import LoggedEvent
from flotilla.kafka.session_log import KafkaEventLog, read_logged_event
from flotilla.postgres import Pool, tenant_transaction

_SELECT_FIRST_OFFSET = "SELECT first_offset FROM audit.session_heads WHERE tenant_id = $1 AND session_id = $2"
_SELECT_NEXT_OFFSET = "SELECT audit.next_offset($1)"
_SELECT_PARKED_HASHES = (
    "SELECT sha256(body) AS body FROM audit.parked_events WHERE tenant_id = $1 AND kafka_partition = $2"
)
_SELECT_PROJECTED_EVENTS = """
SELECT e.session_id, e.seq, e.body FROM unnest($2::text[], $3::bigint[]) AS w (session_id, seq)
JOIN audit.session_events AS e ON e.tenant_id = $1 AND e.session_id = w.session_id AND e.seq = w.seq
"""
_SELECT_NEWEST_SEQ = "SELECT max(seq) FROM audit.session_events WHERE tenant_id = $1 AND session_id = $2 AND seq <= $3"
_SELECT_NEWEST_SEQ_OF_ALL = (
    "SELECT session_id, max(seq) AS seq FROM audit.session_events WHERE tenant_id = $1 GROUP BY session_id"
)
_SELECT_ARCHIVED_SEQS = """
SELECT session_id, archived_seq FROM audit.session_heads
WHERE tenant_id = $1 AND session_id = ANY ($2) AND archived_seq > 0
"""
_NO_UPPER_SEQ = 2**62


@dataclass(frozen=True, slots=True)
class _PartitionProgress:
    """How far a partition's records are projected, and which of them wait or were set aside, by SHA-256."""

    next_offset: int
    parked: set[bytes]

    def must_be_projected(self, event: LoggedEvent) -> bool:
        """Whether the projection has to have it."""
        if event.offset >= self.next_offset:
            return False
        return not self.parked or sha256(event.body).digest() not in self.parked


class _KafkaComparison:
    """What Kafka says against the projection so far: per session, the lowest seq."""

    def __init__(self) -> None:
        self.last_seq: dict[str, int] = {}
        """The newest event of each session that Kafka has; later ones in the projection are not from there."""
        self._worst: dict[str, tuple[int, ProblemKind, str]] = {}

    def note_problem(self, session_id: str, seq: int, kind: ProblemKind, detail: str) -> None:
        if seq < self._worst.get(session_id, (_NO_UPPER_SEQ, "", ""))[0]:
            self._worst[session_id] = (seq, kind, detail)

    def note_newest_event(self, session_id: str, newest: int | None) -> None:
        """The projection's newest event of a session: what lies beyond it is cut off, or has been added."""
        last_seq = self.last_seq.get(session_id, 0)
        if newest is not None and newest > last_seq:
            self.note_problem(session_id, last_seq + 1, "added", "the projection has it, Kafka does not")
        seq, kind, detail = self._worst.get(session_id, (0, "added", ""))
        if kind == "deleted" and seq > (newest or 0):
            self._worst[session_id] = (seq, "truncated", detail)

    def problems(self) -> dict[str, ChainProblem]:
        return {
            session_id: ChainProblem(kind=kind, detail=detail, session_id=session_id, seq=seq)
            for session_id, (seq, kind, detail) in self._worst.items()
        }


class KafkaWitness:
    """Kafka's testimony on the sessions of one tenant.

    The log goes on meanwhile. So the projection's newest events are looked at first, then how far it has read, then
    Kafka: what was projected at the first look lies before the second one's end, and is in Kafka.
    """

    def __init__(self, pool: Pool, tenant_id: str, kafka: KafkaEventLog) -> None:
        self._pool = pool
        self._tenant_id = tenant_id
        self._kafka = kafka

    async def check_sessions(self, segments: Sequence[LineageSegment]) -> dict[str, ChainProblem]:
        """The first bad event of each of these sessions, for those that have one. Reads their partitions only."""
        comparison = _KafkaComparison()
        for segment in segments:
            async with tenant_transaction(self._pool, self._tenant_id) as connection:
                newest = await connection.fetchval(
                    _SELECT_NEWEST_SEQ, self._tenant_id, segment.session_id, segment.upto_seq
                )
                offset = await connection.fetchval(_SELECT_FIRST_OFFSET, self._tenant_id, segment.session_id)
            place = await self._load_partition_progress(lane_of_session(self._tenant_id, segment.session_id))
            last_seq = segment.upto_seq if segment.upto_seq < _NO_UPPER_SEQ else None
            events = await self._kafka.read_session_events(
                self._tenant_id,
                segment.session_id,
                last_seq=last_seq,
                from_offset=offset,
                set_aside=place.parked,
            )
            await self._compare_events({segment.session_id: events}, place, comparison)
            comparison.note_newest_event(segment.session_id, newest)
        return comparison.problems()

    async def check_all_sessions(self) -> dict[str, ChainProblem]:
        """The first bad event of each session, for those that have one. Reads the whole topic."""
        comparison = _KafkaComparison()
        async with tenant_transaction(self._pool, self._tenant_id) as connection:
            rows = await connection.fetch(_SELECT_NEWEST_SEQ_OF_ALL, self._tenant_id)
        newest: dict[str, int] = {row["session_id"]: row["seq"] for row in rows}
        for partition in range(SESSION_EVENTS_PARTITIONS):
            place = await self._load_partition_progress(partition)
            async for batch in self._kafka.scan_partition(partition):
                await self._compare_events(self._tenant_events_by_session(batch), place, comparison)
        for session_id in comparison.last_seq:
            comparison.note_newest_event(session_id, newest.get(session_id))
        return comparison.problems()

    def _tenant_events_by_session(
        self, records: Iterable["ConsumerRecord[bytes, bytes]"]
    ) -> dict[str, list[LoggedEvent]]:
        """The tenant's events among `records`, by session."""
        prefix = session_key(self._tenant_id, "").encode()
        events: dict[str, list[LoggedEvent]] = {}
        for record in records:
            if record.key is not None and record.key.startswith(prefix) and (event := read_logged_event(record)):
                events.setdefault(record.key[len(prefix) :].decode(errors="replace"), []).append(event)
        return events

    async def _compare_events(
        self, events: Mapping[str, Sequence[LoggedEvent]], place: _PartitionProgress, comparison: _KafkaComparison
    ) -> None:
        due = [
            (session_id, event)
            for session_id, logged in events.items()
            for event in logged
            if place.must_be_projected(event)
        ]
        async with tenant_transaction(self._pool, self._tenant_id) as connection:
            rows = await connection.fetch(
                _SELECT_PROJECTED_EVENTS,
                self._tenant_id,
                [session_id for session_id, _ in due],
                [event.seq for _, event in due],
            )
            archived = await connection.fetch(
                _SELECT_ARCHIVED_SEQS, self._tenant_id, list({session_id for session_id, _ in due})
            )
        archived_seqs = {row["session_id"]: row["archived_seq"] for row in archived}
        bodies = {(row["session_id"], row["seq"]): row["body"] for row in rows}
        elsewhere = {(session_id, event.body) for session_id, event in due}
        for session_id, event in due:
            comparison.last_seq[session_id] = max(event.seq, comparison.last_seq.get(session_id, 0))
            body = bodies.get((session_id, event.seq))
            if event.seq <= archived_seqs.get(session_id, 0):
                continue  # its archive is compared by who has it
            if body is None:
                comparison.note_problem(session_id, event.seq, "deleted", "Kafka has it, the projection does not")
            elif body != event.body:
                swapped = (session_id, body) in elsewhere
                detail = "another event is in its place" if swapped else "its bytes are not those that Kafka has"
                comparison.note_problem(session_id, event.seq, "swapped" if swapped else "edited", detail)

    async def _load_partition_progress(self, partition: int) -> _PartitionProgress:
        next_offset = await self._pool.fetchval(_SELECT_NEXT_OFFSET, partition)
        async with tenant_transaction(self._pool, self._tenant_id) as connection:
            parked = await connection.fetch(_SELECT_PARKED_HASHES, self._tenant_id, partition)
        return _PartitionProgress(next_offset or 0, {row["body"] for row in parked})
