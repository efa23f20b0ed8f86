"""Explains a parked session: what each side holds, who signed what, since when, and what each choice means."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

import asyncpg
import msgspec

from flotilla.audit.requests import NO_SESSION, list_parked_sessions
from flotilla.contracts.errors import NotFound
from flotilla.kafka.lanes import lane_of_session
from flotilla.postgres import Pool, tenant_transaction

_MAX_SHOWN_ENTRIES = 50

_SELECT_PARKED = """
SELECT seq, event_id::text, reason, detail, parked_at, kafka_partition, kafka_offset,
    encode(sha256(body), 'hex') AS sha256, length(body) AS size_bytes, body FROM audit.parked_events
WHERE tenant_id = $1 AND coalesce(session_id, '-') = $2 AND reason <> 'discarded'
ORDER BY seq, kafka_offset LIMIT $3
"""
_COUNT_PARKED = """
SELECT count(*) AS events, min(seq) FILTER (WHERE reason = 'conflict') AS conflict_seq FROM audit.parked_events
WHERE tenant_id = $1 AND coalesce(session_id, '-') = $2 AND reason <> 'discarded'
"""
_SELECT_PROJECTED = """
SELECT seq, event_id::text, kafka_partition, kafka_offset, projected_at, encode(sha256(body), 'hex') AS sha256,
    length(body) AS size_bytes, body FROM audit.session_events
WHERE tenant_id = $1 AND session_id = $2 AND seq >= $3 ORDER BY seq LIMIT $4
"""
_SELECT_HEADS = """
SELECT (SELECT h.seq FROM audit.session_heads AS h WHERE h.tenant_id = $1 AND h.session_id = $2) AS projected_seq,
    (SELECT h.archived_seq FROM audit.session_heads AS h WHERE h.tenant_id = $1 AND h.session_id = $2) AS archived_seq,
    (SELECT s.head_seq FROM flotilla.sessions AS s WHERE s.tenant_id = $1 AND s.session_id = $2) AS committed_seq,
    (SELECT count(*) FROM flotilla.event_outbox AS o WHERE o.tenant_id = $1 AND o.session_id = $2) AS in_outbox
"""
_SELECT_SIGNED_HEADS = """
SELECT c.kafka_partition AS partition, c.number, c.seq FROM audit.standing_heads AS c
WHERE c.tenant_id = $1 AND c.session_id = $2 AND c.seq >= $3 ORDER BY c.number DESC LIMIT $4
"""
_SELECT_FORKS = """
SELECT session_id FROM flotilla.sessions WHERE tenant_id = $1 AND parent_session_id = $2 AND forked_at_seq >= $3
ORDER BY session_id LIMIT $4
"""
_SELECT_SET_ASIDE = """
SELECT count(*) AS events, max(detail) AS detail FROM audit.parked_events
WHERE tenant_id = $1 AND coalesce(session_id, '-') = $2 AND reason = 'discarded'
"""


class _EventAttributes(msgspec.Struct):
    type: str | None = None
    source: str | None = None
    time: str | None = None


_attributes_decoder = msgspec.json.Decoder(_EventAttributes)


@dataclass(frozen=True, slots=True, kw_only=True)
class SideEvent:
    """An event as one side holds it; its content is not shown, only its hash."""

    seq: int | None
    event_id: str | None
    type: str | None
    source: str | None
    time: str | None
    """When its maker says that it happened; `since`: when this side got it."""
    since: datetime
    partition: int
    offset: int
    """Negative where Kafka no longer has the record."""
    sha256: str
    size_bytes: int
    reason: str | None = None
    detail: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SignedHead:
    """A checkpoint that vouches for the projected side."""

    partition: int
    number: int
    seq: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """A verb, and what it would do."""

    verb: str
    effect: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ParkedHistory:
    """The answer of `GET /v1/audit/parked/{session_id}`; each list has at most 50 entries."""

    session_id: str
    since: datetime
    reason: str
    detail: str
    first_seq: int | None
    """Where the two sides part, or what waits begins."""
    committed_seq: int | None
    """The session's newest event, as the application counts; `projected_seq`: as the projection does."""
    projected_seq: int | None
    in_outbox: int
    waiting_events: int
    waiting: list[SideEvent]
    projected: list[SideEvent]
    """From `first_seq` on."""
    signed: list[SignedHead]
    forks: list[str]
    """Forks that were made at `first_seq` or later: their prefix changes with the decision."""
    set_aside_before: int
    choices: list[Choice]


async def explain_parked_session(pool: Pool, tenant_id: str, session_id: str) -> ParkedHistory:
    """What is known of a parked session; `-` stands for records that belong to no session.

    Raises:
        NotFound: nothing of it is parked.
    """
    found = await list_parked_sessions(pool, tenant_id, session_id)
    if not found:
        raise NotFound(f"nothing of session {session_id} is parked: `flotilla audit parked list` shows what is")
    (listed,) = found
    async with tenant_transaction(pool, tenant_id) as connection:
        counts = await connection.fetchrow(_COUNT_PARKED, tenant_id, session_id)
        assert counts is not None  # noqa: S101 - an aggregate always gives one row
        first_seq = counts["conflict_seq"] or listed.first_seq
        place = (tenant_id, session_id, first_seq or 1)
        waiting = await connection.fetch(_SELECT_PARKED, tenant_id, session_id, _MAX_SHOWN_ENTRIES)
        projected = await connection.fetch(_SELECT_PROJECTED, *place, _MAX_SHOWN_ENTRIES)
        heads = await connection.fetchrow(_SELECT_HEADS, tenant_id, session_id)
        signed = await connection.fetch(_SELECT_SIGNED_HEADS, *place, _MAX_SHOWN_ENTRIES)
        forks = await connection.fetch(_SELECT_FORKS, *place, _MAX_SHOWN_ENTRIES)
        set_aside = await connection.fetchrow(_SELECT_SET_ASIDE, tenant_id, session_id)
    assert heads is not None  # noqa: S101 - the statement always gives one row
    assert set_aside is not None  # noqa: S101 - an aggregate always gives one row
    reason, detail = _blocking_reason(waiting) or (listed.reason, listed.detail)
    return ParkedHistory(
        session_id=session_id,
        since=listed.parked_since,
        reason=reason,
        detail=detail,
        first_seq=first_seq,
        committed_seq=heads["committed_seq"],
        projected_seq=heads["projected_seq"],
        in_outbox=heads["in_outbox"],
        waiting_events=counts["events"],
        waiting=[_side_event_from_row(row, row["parked_at"], row["reason"], row["detail"]) for row in waiting],
        projected=[_side_event_from_row(row, row["projected_at"]) for row in projected],
        signed=[SignedHead(**dict(row)) for row in signed],
        forks=[row["session_id"] for row in forks],
        set_aside_before=set_aside["events"],
        choices=_choices_for(
            _ParkingSituation(
                session_id=session_id,
                reason=reason,
                first_seq=first_seq,
                projected_seq=heads["projected_seq"],
                archived_seq=heads["archived_seq"] or 0,
                is_elsewhere=_is_conflict_in_wrong_partition(waiting, tenant_id, session_id),
            )
        ),
    )


_REASONS_BY_URGENCY: Sequence[str] = ("conflict", "forbidden", "unknown_type", "undecodable", "gap", "waiting")


def _blocking_reason(waiting: Sequence[asyncpg.Record]) -> tuple[str, str] | None:
    """Reason and detail of what keeps the others waiting; None where nothing waits."""
    urgency = {reason: place for place, reason in enumerate(_REASONS_BY_URGENCY)}
    first = min(waiting, key=lambda row: urgency.get(row["reason"], -1), default=None)
    return None if first is None else (first["reason"], first["detail"])


def _side_event_from_row(
    row: asyncpg.Record, since: datetime, reason: str | None = None, detail: str | None = None
) -> SideEvent:
    event = _decode_attributes(row["body"])
    return SideEvent(
        seq=row["seq"],
        event_id=row["event_id"],
        type=event.type,
        source=event.source,
        time=event.time,
        since=since,
        partition=row["kafka_partition"],
        offset=row["kafka_offset"],
        sha256=row["sha256"],
        size_bytes=row["size_bytes"],
        reason=reason,
        detail=detail,
    )


def _decode_attributes(body: bytes) -> _EventAttributes:
    try:
        return _attributes_decoder.decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return _EventAttributes()  # what is parked need not be an event


def _is_conflict_in_wrong_partition(waiting: Sequence[asyncpg.Record], tenant_id: str, session_id: str) -> bool:
    """Whether a conflicting record is in a partition that is not the session's, where no relay puts it."""
    lane = lane_of_session(tenant_id, session_id)
    return any(row["reason"] == "conflict" and row["kafka_partition"] != lane for row in waiting)


@dataclass(frozen=True, slots=True, kw_only=True)
class _ParkingSituation:
    """What the ways out depend on."""

    session_id: str
    reason: str
    first_seq: int | None
    projected_seq: int | None
    archived_seq: int
    is_elsewhere: bool

    @property
    def is_archived(self) -> bool:
        """Whether what it is in conflict with is in an archive, where it can't be compared."""
        return self.reason == "conflict" and (self.first_seq or 0) <= self.archived_seq


def _choices_for(parking: _ParkingSituation) -> list[Choice]:
    """The verbs that end it, whatever it is parked for. None is named that would be refused."""
    effects = _effect_by_verb(parking)
    return [
        Choice(verb=_cli_command(verb, parking.session_id), effect=effects[verb]) for verb in _possible_verbs(parking)
    ]


def _cli_command(verb: str, session_id: str) -> str:
    return f"flotilla audit parked {verb} {session_id}" + ("" if verb == "retry" else " --reason WHY")


def _possible_verbs(parking: _ParkingSituation) -> Sequence[str]:
    if parking.session_id == NO_SESSION or parking.reason == "forbidden":
        return ("discard",)
    if parking.is_archived:
        return ("retry",)
    if parking.reason == "conflict":
        return ("discard", "reject") if parking.is_elsewhere else ("accept", "reject", "discard")
    if parking.reason == "gap" and parking.projected_seq is not None:
        return ("retry", "accept", "reject")
    return ("reject",) if parking.reason == "ahead" else ("retry", "reject")


def _effect_by_verb(parking: _ParkingSituation) -> Mapping[str, str]:
    """What each verb would do."""
    last = parking.projected_seq or 0
    keep = (
        f"keeps the projected history up to event {last}; all that waits is set aside, and the session goes on with "
        f"event {last + 1}"
    )
    effects = {
        "retry": "after an upgrade to a version that knows the type it goes on by itself; this only looks again",
        "reject": keep,
        "discard": "sets only the conflicting events aside; what waits behind them follows the projected history. For "
        "a record that does not belong there at all",
        "accept": f"takes the history that waits: the projected events from {parking.first_seq} on are set aside, and "
        "the next checkpoint signs the decision",
    }
    if parking.is_archived:
        effects["retry"] = (
            f"compares again, after flotilla audit restore has brought back events 1 to {parking.archived_seq} "
            "(flotilla audit archives shows the file): an event that came twice is dropped"
        )
    if parking.reason == "gap":
        effects["retry"] = "looks whether the missing events came"
        effects["accept"] = (
            "puts an error event in the place of each missing event, in Kafka too; what waits then follows"
        )
    if parking.reason == "ahead":
        effects["reject"] = f"the session goes on with event {last + 1}, after what Kafka has; nothing is set aside"
    if parking.reason == "forbidden":
        effects["discard"] = (
            "keeps the event in its place as evidence, where it steers nothing; what waits behind it goes on"
        )
    if parking.session_id == NO_SESSION:
        effects["discard"] = "the records are set aside: kept, marked, not counted"
    return effects
