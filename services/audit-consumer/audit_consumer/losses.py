"""What the live projection holds and a rebuilt one would not: which sessions would shrink or change.

A chain's hash covers everything before it. So a session whose newest hash is found again at the same place has lost
nothing, and only the others are compared event by event.
"""

from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime

import asyncpg

from audit_consumer.projection_rows import SessionKey
from audit_consumer.rewinds import HistoryDecision, add_rewind, chain_hash_before
from flotilla.contracts.errors import Refused
from flotilla.contracts.ids import utc_now
from flotilla.contracts.json_types import JsonObject
from flotilla.postgres import Connection

_PAGE_SIZE = 5000
_MAX_NAMED_LOSSES = 10
_QUERY_TIMEOUT_S = 600.0
"""The longest that one statement of the comparison may take."""
_NO_UPPER_SEQ = 2**62
MAX_LISTED_LOSSES = 10_000

_RAISE_STATEMENT_TIMEOUT = f"SET LOCAL statement_timeout = '{_QUERY_TIMEOUT_S:g}s'"
# One page of sessions, found by skipping through the primary key, each with its newest hash compared.
_SELECT_DIFFERING_SESSIONS = """
WITH RECURSIVE page AS (
    (SELECT e.tenant_id, e.session_id, 1 AS n FROM audit.session_events AS e
     WHERE (e.tenant_id, e.session_id) > ($1, $2) ORDER BY e.tenant_id, e.session_id LIMIT 1)
    UNION ALL
    SELECT f.tenant_id, f.session_id, p.n + 1 FROM page AS p CROSS JOIN LATERAL (
        SELECT e.tenant_id, e.session_id FROM audit.session_events AS e
        WHERE (e.tenant_id, e.session_id) > (p.tenant_id, p.session_id) ORDER BY e.tenant_id, e.session_id LIMIT 1
    ) AS f WHERE p.n < $3
)
SELECT p.tenant_id, p.session_id, l.seq, EXISTS (
    SELECT FROM audit_next.session_events AS n
    WHERE n.tenant_id = p.tenant_id AND n.session_id = p.session_id AND n.seq = l.seq AND n.hash = l.hash) AS same
FROM page AS p CROSS JOIN LATERAL (
    SELECT e.seq, e.hash FROM audit.session_events AS e
    WHERE e.tenant_id = p.tenant_id AND e.session_id = p.session_id ORDER BY e.seq DESC LIMIT 1
) AS l ORDER BY p.n
"""
# The same by the sessions' head rows, at once: what the live projection took in since the pages were compared.
_SELECT_DIFFERING_HEADS = """
SELECT l.tenant_id, l.session_id FROM audit.session_heads AS l
LEFT JOIN audit_next.session_heads AS n USING (tenant_id, session_id)
WHERE n.seq IS NULL OR n.seq < l.seq OR (n.seq = l.seq AND n.hash <> l.hash)
    OR (n.seq > l.seq AND NOT EXISTS (
        SELECT FROM audit_next.session_events AS e
        WHERE e.tenant_id = l.tenant_id AND e.session_id = l.session_id AND e.seq = l.seq AND e.hash = l.hash))
"""
# Events that wait in the live projection and are nowhere in the rebuilt one.
_SELECT_LOST_PARKED = """
SELECT p.tenant_id, p.session_id, count(*) AS events, min(p.seq) AS first_seq FROM audit.parked_events AS p
WHERE p.reason <> 'discarded' AND p.parked_at <= coalesce($1, p.parked_at)
    AND NOT EXISTS (SELECT FROM audit_next.parked_events AS n
        WHERE n.tenant_id = p.tenant_id AND n.kafka_partition = p.kafka_partition AND n.body = p.body)
    AND NOT EXISTS (SELECT FROM audit_next.session_events AS e
        WHERE e.tenant_id = p.tenant_id AND e.session_id = p.session_id AND e.seq = p.seq AND e.body = p.body)
GROUP BY p.tenant_id, p.session_id
"""
# Sessions whose events are all in an archive: their files can come back only while a head has their hash.
_SELECT_LOST_ARCHIVED = """
SELECT h.tenant_id, h.session_id, h.seq FROM audit.session_heads AS h
WHERE h.archived_seq = h.seq AND NOT EXISTS (
    SELECT FROM audit_next.session_events AS n
    WHERE n.tenant_id = h.tenant_id AND n.session_id = h.session_id AND n.seq = h.seq AND n.hash = h.hash)
"""
_COUNT_LOST_EVENTS = """
WITH live AS (
    SELECT count(l.seq) AS holds, count(*) FILTER (WHERE n.seq IS NULL) AS lost,
        count(*) FILTER (WHERE n.body <> l.body) AS replaced,
        min(l.seq) FILTER (WHERE n.seq IS NULL OR n.body <> l.body) AS first_seq
    FROM audit.session_events AS l LEFT JOIN audit_next.session_events AS n USING (tenant_id, session_id, seq)
    WHERE l.tenant_id = $1 AND l.session_id = $2 AND l.seq <= $3
), away AS (
    SELECT h.first_seq, h.archived_seq - h.first_seq + 1 AS events, r.events AS rebuilt, r.same
    FROM audit.session_heads AS h CROSS JOIN LATERAL (
        SELECT count(*) AS events, coalesce(bool_or(n.hash = h.archived_hash), false) AS same
        FROM audit_next.session_events AS n
        WHERE n.tenant_id = $1 AND n.session_id = $2 AND n.seq <= h.archived_seq) AS r
    WHERE h.tenant_id = $1 AND h.session_id = $2 AND h.archived_seq BETWEEN 1 AND $3
)
SELECT live.holds + coalesce(away.events, 0) AS holds,
    (SELECT count(*) FROM audit_next.session_events AS a WHERE a.tenant_id = $1 AND a.session_id = $2) AS rebuilt,
    live.lost + coalesce(away.events - away.rebuilt, 0) AS lost,
    live.replaced + CASE WHEN NOT away.same AND away.rebuilt = away.events THEN away.events ELSE 0 END AS replaced,
    least(CASE WHEN away.rebuilt < away.events THEN away.first_seq + away.rebuilt
        WHEN NOT away.same THEN away.first_seq END, live.first_seq) AS first_seq
FROM live LEFT JOIN away ON true
"""


_SELECT_OLD_HEAD = """
SELECT h.*, (SELECT n.hash FROM audit_next.session_events AS n
    WHERE n.tenant_id = h.tenant_id AND n.session_id = h.session_id AND n.seq = $3 - 1) AS base
FROM audit.session_heads AS h WHERE h.tenant_id = $1 AND h.session_id = $2 AND h.seq >= $3
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionLoss:
    """What one session would lose; `session_id` is None for parked records that belong to no session."""

    tenant_id: str
    session_id: str | None
    holds: int
    """Events in the live projection, or in an archive; `rebuilt`: in the one made from Kafka."""
    rebuilt: int
    lost: int
    """Events, projected or parked, that the rebuilt one lacks."""
    replaced: int
    """Events that have another content there."""
    first_seq: int | None

    @property
    def name_to_accept(self) -> str:
        """As it is named to accept the loss."""
        return f"{self.tenant_id}/{self.session_id or '-'}"

    def __str__(self) -> str:
        changed = f", {self.replaced} changed" if self.replaced else ""
        return (
            f"{self.name_to_accept} (holds {self.holds} events, Kafka gives {self.rebuilt}: {self.lost} lost{changed}, "
            f"from event {self.first_seq} on)"
        )


AcceptedLosses = Mapping[str, tuple[int, int]]
"""Sessions by name, with the most events that may be lost and replaced in each."""


class WouldLoseEvents(Refused):
    """The rebuild would lose events that nobody, or not two people, agreed to lose; nothing was changed."""

    def __init__(self, losses: Sequence[SessionLoss]) -> None:
        named = ", ".join(map(str, losses[:_MAX_NAMED_LOSSES]))
        more = f" and {len(losses) - _MAX_NAMED_LOSSES} more" if len(losses) > _MAX_NAMED_LOSSES else ""
        super().__init__(
            f"Kafka no longer has what the projection holds of {len(losses)} sessions: {named}{more}. The projection "
            "stays as it is. Restore Kafka's log if you can (docs/operations.md). If it is lost for good, "
            f"name each session: flotilla audit rebuild --accept-loss {losses[0].name_to_accept} --reason WHY, "
            "and a second "
            "person confirms it"
        )
        self.losses = list(losses)

    def listed(self) -> list[JsonObject]:
        """The losses as documents, at most 10,000 of them."""
        return [asdict(loss) for loss in self.losses[:MAX_LISTED_LOSSES]]


def raise_unless_accepted(losses: Iterable[SessionLoss], accepted: AcceptedLosses) -> None:
    """Return when each loss was accepted, and is no larger than what was accepted.

    Raises:
        WouldLoseEvents: names the others.
    """
    excess = [
        loss
        for loss in losses
        if loss.name_to_accept not in accepted
        or loss.lost > accepted[loss.name_to_accept][0]
        or loss.replaced > accepted[loss.name_to_accept][1]
    ]
    if excess:
        raise WouldLoseEvents(excess)


@dataclass(frozen=True, slots=True)
class DifferingSessions:
    """Sessions that differed while the live projection went on."""

    newest: Mapping[tuple[str, str | None], int]
    """Their newest seq at the time: what came later is not missed."""
    seen_at: datetime | None


async def find_differing_sessions(connection: Connection) -> DifferingSessions:
    """The sessions whose newest event the rebuilt projection lacks now; it may get some of them from Kafka yet."""
    seen_at = await connection.fetchval("SELECT clock_timestamp()")
    newest: dict[tuple[str, str | None], int] = {key: seq async for key, seq in _iterate_differing_sessions(connection)}
    newest.update({(tenant, session): seq for tenant, session, seq in await connection.fetch(_SELECT_LOST_ARCHIVED)})
    return DifferingSessions(newest, seen_at)


async def find_sessions_with_differing_heads(connection: Connection) -> DifferingSessions:
    """The same by the head rows alone, which is quick: for the moment in which live consumers wait."""
    await connection.execute(_RAISE_STATEMENT_TIMEOUT)
    rows = await connection.fetch(_SELECT_DIFFERING_HEADS, timeout=_QUERY_TIMEOUT_S)
    return DifferingSessions({(row["tenant_id"], row["session_id"]): _NO_UPPER_SEQ for row in rows}, None)


async def count_lost_events(connection: Connection, suspects: DifferingSessions) -> list[SessionLoss]:
    """What is lost indeed, now that the rebuilt projection has read as far as the live one had when they were found."""
    await connection.execute(_RAISE_STATEMENT_TIMEOUT)
    rows = await connection.fetch(_SELECT_LOST_PARKED, suspects.seen_at, timeout=_QUERY_TIMEOUT_S)
    parked = {(row["tenant_id"], row["session_id"]): row for row in rows}
    newest: dict[tuple[str, str | None], int] = dict.fromkeys(parked, _NO_UPPER_SEQ)
    newest.update(suspects.newest)
    losses = [
        _session_loss(
            key, await connection.fetchrow(_COUNT_LOST_EVENTS, *key, seq, timeout=_QUERY_TIMEOUT_S), parked.get(key)
        )
        for key, seq in sorted(newest.items(), key=lambda item: (item[0][0], item[0][1] or ""))
    ]
    return [loss for loss in losses if loss.lost or loss.replaced]


async def record_losses_for_checkpoint(
    connection: Connection, losses: Iterable[SessionLoss], *, request_id: str, by: str, reason: str
) -> None:
    """Note each projected loss for the next checkpoint, just before the two projections are exchanged."""
    for loss in {loss.name_to_accept: loss for loss in losses}.values():
        if loss.session_id is None or loss.first_seq is None:
            continue
        session = (loss.tenant_id, loss.session_id)
        head = await connection.fetchrow(_SELECT_OLD_HEAD, *session, loss.first_seq)
        if head is not None:
            decision = HistoryDecision(session=session, request_id=request_id, by=by, reason=reason, asked_at=utc_now())
            base = chain_hash_before(session, head, loss.first_seq, head["base"])
            await add_rewind(connection, decision, head, loss.first_seq, base)


async def _iterate_differing_sessions(connection: Connection) -> AsyncIterator[tuple[SessionKey, int]]:
    after = ("", "")
    while rows := await connection.fetch(_SELECT_DIFFERING_SESSIONS, *after, _PAGE_SIZE):
        for row in rows:
            if not row["same"]:
                yield (row["tenant_id"], row["session_id"]), row["seq"]
        after = (rows[-1]["tenant_id"], rows[-1]["session_id"])


def _session_loss(
    key: tuple[str, str | None], events: asyncpg.Record | None, parked: asyncpg.Record | None
) -> SessionLoss:
    assert events is not None  # noqa: S101 - an aggregate always gives one row
    firsts = [row["first_seq"] for row in (events, parked) if row and row["first_seq"] is not None]
    return SessionLoss(
        tenant_id=key[0],
        session_id=key[1],
        holds=events["holds"],
        rebuilt=events["rebuilt"],
        lost=events["lost"] + (parked["events"] if parked else 0),
        replaced=events["replaced"],
        first_seq=min(firsts, default=None),
    )
