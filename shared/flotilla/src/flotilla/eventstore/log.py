"""Reads a session's events so that their writer sees them: projection, outbox and Kafka together.

An event is in the outbox until the relay has it in Kafka, and in the projection once the audit consumer has read it
there; in between it is only in Kafka. One statement reads head, projection and outbox in one snapshot. If they do
not reach the head without a hole, it is asked again for 200 ms, then Kafka is asked for the rest. A list that is
still short is never given out.
"""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, replace
from operator import itemgetter
from typing import Protocol

from flotilla.contracts.envelope import AgentEvent
from flotilla.contracts.errors import Invalid, Parked, RetryLater, no_such
from flotilla.eventstore.opening import decode_decrypted, decrypt_event_bodies
from flotilla.eventstore.sessions import session_archived_error
from flotilla.kafka.lanes import lane_of_session
from flotilla.kafka.records import LoggedEvent
from flotilla.postgres import Pool, tenant_transaction

MAX_EVENTS_PER_PAGE = 1000

# The session's lineage (itself, its parent's prefix, ...), then the wanted events from projection and outbox. The
# outbox is looked at only when the projection falls short, so its missing index costs nothing most of the time.
_SELECT_HISTORY = """
WITH RECURSIVE lineage AS (
    SELECT s.session_id, s.parent_session_id, coalesce(s.forked_at_seq, 0) AS after_seq, s.head_seq AS upto_seq,
        0 AS depth
    FROM flotilla.sessions AS s WHERE s.tenant_id = $1 AND s.session_id = $2
    UNION ALL
    SELECT p.session_id, p.parent_session_id, coalesce(p.forked_at_seq, 0), least(l.after_seq, l.upto_seq), l.depth + 1
    FROM lineage AS l JOIN flotilla.sessions AS p ON p.tenant_id = $1 AND p.session_id = l.parent_session_id
), wanted AS (
    SELECT session_id, greatest(after_seq, $3::bigint - 1) AS after_seq, least(upto_seq, $4::bigint) AS upto_seq
    FROM lineage
), projected AS MATERIALIZED (
    SELECT e.session_id, e.seq, e.body FROM wanted AS w CROSS JOIN LATERAL (
        SELECT s.session_id, s.seq, s.body FROM audit.session_events AS s
        WHERE s.tenant_id = $1 AND s.session_id = w.session_id AND s.seq > w.after_seq AND s.seq <= w.upto_seq
        OFFSET 0) AS e
)
SELECT depth, session_id, after_seq, upto_seq, NULL::bytea AS body FROM lineage
UNION ALL
SELECT NULL, session_id, NULL, seq, body FROM projected
UNION ALL
SELECT NULL, o.session_id, NULL, o.seq, o.body FROM flotilla.event_outbox AS o JOIN wanted AS w
    ON o.session_id = w.session_id AND o.seq > w.after_seq AND o.seq <= w.upto_seq
WHERE o.tenant_id = $1
    AND (SELECT count(*) FROM projected) < (SELECT sum(greatest(upto_seq - after_seq, 0)) FROM wanted)
"""
# Sessions of a lineage whose events are in an archive up to there.
_SELECT_ARCHIVED = """
SELECT l.session_id, a.upto_seq FROM unnest($2::text[], $3::bigint[]) AS l (session_id, first_seq)
CROSS JOIN LATERAL audit.archived_upto($1, l.session_id) AS a (upto_seq) WHERE a.upto_seq >= l.first_seq LIMIT 1
"""
_SELECT_NEXT_OFFSET = "SELECT audit.next_offset($1)"
# What holds up the sessions of a lineage, the cause before what waits behind it.
_SELECT_BLOCKING_PARKED = """
SELECT session_id, reason, detail, parked_at FROM audit.parked_events
WHERE tenant_id = $1 AND session_id = ANY($2) AND reason <> 'discarded'
ORDER BY reason = 'waiting', reason = 'gap', kafka_offset LIMIT 1
"""


class PublishedEventLog(Protocol):
    """Where events are that have left the outbox: `flotilla.kafka.session_log.KafkaEventLog`."""

    async def read_session_events(
        self,
        tenant_id: str,
        session_id: str,
        *,
        first_seq: int = 1,
        last_seq: int | None = None,
        from_offset: int | None = None,
    ) -> list[LoggedEvent]:
        """The first occurrence of each of the session's own events in the range, in order of seq."""
        ...


@dataclass(frozen=True, slots=True)
class LineageSegment:
    """A part of a lineage: the events of `session_id` with `after_seq` < seq ≤ `upto_seq`."""

    session_id: str
    after_seq: int
    upto_seq: int


@dataclass(frozen=True, slots=True)
class Page:
    """A stretch of a session's history, complete and in order."""

    head_seq: int
    """The session's newest event when this was read."""
    first_seq: int
    bodies: list[bytes]
    """The CloudEvents from `first_seq` on: byte for byte as they were recorded, but for those whose data is encrypted,
    which is shown decrypted, or as `[erased]` where its key was destroyed."""

    @property
    def next_seq(self) -> int:
        """Where the next page starts."""
        return self.first_seq + len(self.bodies)


class SessionLog:
    """Complete reads of the sessions of one tenant. Without `kafka` a lagging projection means RetryLater."""

    def __init__(
        self, pool: Pool, tenant_id: str, kafka: PublishedEventLog | None = None, *, wait_s: float = 0.2
    ) -> None:
        self._pool = pool
        self._tenant_id = tenant_id
        self._kafka = kafka
        self._wait_s = wait_s

    async def read_page(self, session_id: str, from_seq: int = 1, to_seq: int | None = None) -> Page:
        """The events from `from_seq` to `to_seq` (or to the head), at most 1,000 of them.

        Raises:
            NotFound: the tenant has no such session.
            Invalid: `from_seq` is below 1.
            SessionArchived: its events, or its parent's, are in an archive.
            RetryLater: committed events are neither projected nor in reach.
        """
        page = await self._recorded(session_id, from_seq, to_seq)
        return replace(page, bodies=await decrypt_event_bodies(self._pool, self._tenant_id, page.bodies))

    async def events(
        self, session_id: str, from_seq: int = 1, to_seq: int | None = None
    ) -> AsyncIterator[list[AgentEvent]]:
        """The events from `from_seq` to `to_seq`, or to the head as it is at the first page, page by page."""
        async for page in self._recorded_pages(session_id, from_seq, to_seq):
            yield await decode_decrypted(self._pool, self._tenant_id, page.bodies)

    async def lineage(self, session_id: str) -> list[LineageSegment]:
        """Where the session's history lies: its own events first, then its parent's prefix, and so on."""
        return (await self._read_stored(session_id, 1, 0)).lineage

    async def _recorded(self, session_id: str, from_seq: int, to_seq: int | None) -> Page:
        """As `read_page`, with encrypted data as it was recorded."""
        if from_seq < 1:
            raise Invalid(f"from_seq {from_seq}: sequence numbers start at 1")
        limit = from_seq + MAX_EVENTS_PER_PAGE - 1
        last_seq = limit if to_seq is None else min(to_seq, limit)
        found = await self._read_stored(session_id, from_seq, last_seq)
        deadline = asyncio.get_running_loop().time() + self._wait_s
        while found.missing_seqs and asyncio.get_running_loop().time() < deadline:
            await asyncio.sleep(0.01)
            found = await self._read_stored(session_id, from_seq, last_seq)
        if found.missing_seqs:
            found = await self._read_and_fill_from_kafka(session_id, from_seq, last_seq)
        return found.to_page()

    async def _recorded_pages(self, session_id: str, from_seq: int, to_seq: int | None) -> AsyncIterator[Page]:
        page = await self._recorded(session_id, from_seq, to_seq)
        last_seq = page.head_seq if to_seq is None else min(to_seq, page.head_seq)
        yield page
        while page.next_seq <= last_seq:
            page = await self._recorded(session_id, page.next_seq, last_seq)
            yield page

    async def _read_stored(self, session_id: str, first_seq: int, last_seq: int) -> "_FoundEvents":
        async with tenant_transaction(self._pool, self._tenant_id) as connection:
            rows = await connection.fetch(_SELECT_HISTORY, self._tenant_id, session_id, first_seq, last_seq)
        if not rows:
            raise no_such("session", session_id)
        lineage = sorted((row for row in rows if row["depth"] is not None), key=itemgetter("depth"))
        segments = [LineageSegment(row["session_id"], row["after_seq"], row["upto_seq"]) for row in lineage]
        return _FoundEvents(segments, first_seq, last_seq, {row[3]: row[4] for row in rows if row[0] is None})

    async def _read_and_fill_from_kafka(self, session_id: str, first_seq: int, last_seq: int) -> "_FoundEvents":
        """The same with the holes filled from Kafka. Offsets are read before the events, so that what the
        projection gains in between is seen twice rather than never."""
        await self._raise_if_archived(await self.lineage(session_id), first_seq)
        if self._kafka is None:
            await self._raise_if_parked(session_id, await self.lineage(session_id))
            raise RetryLater(f"session {session_id}: its newest events are not projected yet: try again in a moment")
        segments = await self.lineage(session_id)
        offsets = {segment.session_id: await self._load_next_offset(segment.session_id) for segment in segments}
        found = await self._read_stored(session_id, first_seq, last_seq)
        for segment in found.lineage:
            lacking = [seq for seq in found.missing_seqs if segment.after_seq < seq <= segment.upto_seq]
            if lacking:
                events = await self._kafka.read_session_events(
                    self._tenant_id,
                    segment.session_id,
                    first_seq=lacking[0],
                    last_seq=lacking[-1],
                    from_offset=offsets.get(segment.session_id),
                )
                found.bodies.update({event.seq: event.body for event in events if event.seq not in found.bodies})
        if lacking := found.missing_seqs:
            await self._raise_if_parked(session_id, found.lineage)
            raise RetryLater(
                f"session {session_id}: events {lacking[0]} to {lacking[-1]} are committed but neither in Kafka nor in "
                "the projection: is the relay running (`flotilla outbox status`)?"
            )
        return found

    async def _raise_if_archived(self, segments: Sequence[LineageSegment], first_seq: int) -> None:
        """Return unless events from `first_seq` on are in an archive.

        Raises:
            SessionArchived: names the session.
        """
        needed = [(one.session_id, max(first_seq, one.after_seq + 1)) for one in segments if one.upto_seq >= first_seq]
        names, first_seqs = [name for name, _ in needed], [seq for _, seq in needed]
        async with tenant_transaction(self._pool, self._tenant_id) as connection:
            row = await connection.fetchrow(_SELECT_ARCHIVED, self._tenant_id, names, first_seqs)
        if row is not None:
            raise session_archived_error(row["session_id"], row["upto_seq"])

    async def _raise_if_parked(self, session_id: str, segments: Sequence[LineageSegment]) -> None:
        """Return unless a person has to decide first.

        Raises:
            Parked: names the session, the reason, and what to run.
        """
        async with tenant_transaction(self._pool, self._tenant_id) as connection:
            names = [segment.session_id for segment in segments]
            row = await connection.fetchrow(_SELECT_BLOCKING_PARKED, self._tenant_id, names)
        if row is not None:
            parent = "" if row["session_id"] == session_id else f", parent of {session_id},"
            raise Parked(
                f"session {row['session_id']}{parent} is parked since {row['parked_at']:%Y-%m-%d %H:%M} UTC "
                f"({row['reason']}: {row['detail']}), so its newest events can't be read. An operator decides: "
                f"flotilla audit parked explain {row['session_id']}"
            )

    async def _load_next_offset(self, session_id: str) -> int | None:
        offset = await self._pool.fetchval(_SELECT_NEXT_OFFSET, lane_of_session(self._tenant_id, session_id))
        return None if offset is None else int(offset)


class _FoundEvents:
    """What one statement saw."""

    def __init__(
        self, lineage: Sequence[LineageSegment], first_seq: int, last_seq: int, bodies: Mapping[int, bytes]
    ) -> None:
        self.lineage = list(lineage)
        self.head_seq = lineage[0].upto_seq
        self.bodies = dict(bodies)
        self._wanted = range(first_seq, min(last_seq, self.head_seq) + 1)

    @property
    def missing_seqs(self) -> list[int]:
        if len(self.bodies) >= len(self._wanted):
            return []
        return [seq for seq in self._wanted if seq not in self.bodies]

    def to_page(self) -> Page:
        return Page(self.head_seq, self._wanted.start, [self.bodies[seq] for seq in self._wanted])
