"""Which of two histories a session has, as a person decided: the one that waits, or the one that is projected.

Either way nothing is deleted. What loses is kept in `parked_events` as `discarded`, with who decided and why, and is
never taken again; so a rebuild comes to the same result.
"""

from collections.abc import Awaitable, Callable, Sequence
from typing import TypeAlias
from uuid import UUID, uuid5

import asyncpg

from audit_consumer.projection import Projection
from audit_consumer.projection_rows import SET_ASIDE_DETAIL_PREFIX, SessionKey
from audit_consumer.rewinds import HistoryDecision, add_rewind, chain_hash_before
from audit_consumer.snapshotting import write_due_snapshots
from flotilla.contracts.envelope import AgentEvent, encode_event, to_builtins
from flotilla.contracts.errors import Refused
from flotilla.contracts.json_types import JsonObject
from flotilla.contracts.session_events import ErrorRaised, session_event_type
from flotilla.eventstore.snapshots import EVENTS_PER_SNAPSHOT
from flotilla.kafka.lanes import lane_of_session
from flotilla.postgres import Connection, Pool

PublishSessionEvents: TypeAlias = Callable[[SessionKey, Sequence[bytes]], Awaitable[None]]
"""Puts events of a session into Kafka, in order."""
MAX_STAND_IN_EVENTS = 10_000
_STAND_IN_NAMESPACE = UUID("6f1d3c0e-6c55-4a3c-9a55-0a5a1d0c7e10")

_SELECT_PARKED = """
SELECT reason, kafka_partition, min(seq) AS first_seq, max(seq) AS last_seq, count(*) AS events FROM parked_events
WHERE tenant_id = $1 AND session_id = $2 AND reason <> 'discarded' GROUP BY reason, kafka_partition
"""
_SELECT_HEAD = "SELECT * FROM session_heads WHERE tenant_id = $1 AND session_id = $2"
_SELECT_HASH = "SELECT hash FROM session_events WHERE tenant_id = $1 AND session_id = $2 AND seq = $3"
# Projected events give way. An offset that another parked record has (Kafka lost the first) is replaced by a free one.
_SET_EVENTS_ASIDE = """
INSERT INTO parked_events (tenant_id, kafka_partition, kafka_offset, session_id, seq, event_id, reason, detail, body)
SELECT e.tenant_id, e.kafka_partition, CASE WHEN t.taken THEN t.lowest - row_number() OVER (ORDER BY e.seq)
    ELSE e.kafka_offset END, e.session_id, e.seq, e.event_id, 'discarded', $4, e.body
FROM session_events AS e CROSS JOIN LATERAL (
    SELECT least(min(p.kafka_offset), 0) AS lowest, coalesce(bool_or(p.kafka_offset = e.kafka_offset), false) AS taken
    FROM parked_events AS p WHERE p.tenant_id = e.tenant_id AND p.kafka_partition = e.kafka_partition) AS t
WHERE e.tenant_id = $1 AND e.session_id = $2 AND e.seq >= $3
"""
_DELETE_EVENTS = "DELETE FROM session_events WHERE tenant_id = $1 AND session_id = $2 AND seq >= $3"
_DELETE_USAGE = "DELETE FROM tool_usage WHERE tenant_id = $1 AND session_id = $2 AND seq >= $3"
_DELETE_SNAPSHOTS = "DELETE FROM snapshots WHERE tenant_id = $1 AND session_id = $2 AND seq > $3"
_DELETE_HEAD = "DELETE FROM session_heads WHERE tenant_id = $1 AND session_id = $2"
_MOVE_HEAD = """
UPDATE session_heads SET seq = $3, hash = $4, snapshot_seq = $5, dirty = true WHERE tenant_id = $1 AND session_id = $2
"""
# An event that waits under a seq that a conflict claims gives way, too; the conflict takes its turn.
_DISCARD_CONFLICTING = """
UPDATE parked_events AS p SET reason = 'discarded', detail = $3
WHERE p.tenant_id = $1 AND p.session_id = $2 AND p.reason NOT IN ('discarded', 'conflict') AND EXISTS (
    SELECT FROM parked_events AS c
    WHERE c.tenant_id = $1 AND c.session_id = $2 AND c.reason = 'conflict' AND c.seq = p.seq)
"""
_MARK_CONFLICTS_WAITING = """
UPDATE parked_events SET reason = 'waiting' WHERE tenant_id = $1 AND session_id = $2 AND reason = 'conflict'
"""
_DISCARD_WAITING = """
UPDATE parked_events SET reason = 'discarded', detail = $3
WHERE tenant_id = $1 AND session_id = $2 AND reason <> 'discarded'
"""
_RESET_HEAD = "SELECT audit.reset_head($1, $2, $3, $4)"


async def accept_parked_history(
    pool: Pool, projection: Projection, publish: PublishSessionEvents, decision: HistoryDecision
) -> JsonObject:
    """Take the history that waits. For a gap: puts an error event in the place of each event that is lost.

    Raises:
        Refused: what waits can't be taken.
    """
    parked = await pool.fetch(_SELECT_PARKED, *decision.session)
    reasons = {row["reason"] for row in parked}
    if "conflict" in reasons:
        return await _replace_projected_history(pool, projection, decision)
    _raise_if_parked_as_forbidden(decision, reasons)
    if "gap" in reasons:
        return await _publish_stand_ins_for_gap(pool, publish, decision, min(row["first_seq"] for row in parked))
    if parked:
        raise Refused(
            f"session {decision.session[1]} waits ({', '.join(sorted(reasons))}), and there is no other history to "
            "take: upgrade the audit consumer, which then goes on by itself, or reject what waits"
        )
    return {"projected": 0, "set_aside": 0, "still_parked": False}


async def reject_parked_history(pool: Pool, projection: Projection, decision: HistoryDecision) -> JsonObject:
    """Keep the projected history: sets aside all that waits, and let the session go on from there.

    Raises:
        Refused: some of its events are still on their way.
    """
    set_aside = 0

    async def decide(connection: Connection) -> None:
        nonlocal set_aside
        parked = await connection.fetch(_SELECT_PARKED, *decision.session)
        _raise_if_parked_as_forbidden(decision, {row["reason"] for row in parked})
        head = await connection.fetchrow(_SELECT_HEAD, *decision.session)
        set_aside = sum(row["events"] for row in parked)
        await connection.execute(_DISCARD_WAITING, *decision.session, f"{SET_ASIDE_DETAIL_PREFIX} {decision}")
        to_seq = head["seq"] if head else 0
        # Where nothing waits, PostgreSQL may be behind Kafka, after a restore: the session goes on after that.
        seen_seq = max((row["last_seq"] for row in parked), default=to_seq)
        if not await connection.fetchval(_RESET_HEAD, *decision.session, to_seq, seen_seq):
            raise Refused(
                f"events of session {decision.session[1]} beyond {seen_seq} are still on their way here: ask again in "
                "a moment (`flotilla outbox status` shows whether the relay works)"
            )

    outcome = await projection.place_parked_again(lane_of_session(*decision.session), decision.session, decide)
    return {"projected": 0, "set_aside": set_aside, "still_parked": bool(outcome.parked_sessions)}


def _raise_if_parked_as_forbidden(decision: HistoryDecision, reasons: set[str]) -> None:
    if "forbidden" in reasons:
        raise Refused(
            f"session {decision.session[1]} waits behind an event of a kind that its source may not write: discard it. "
            "It then keeps its place as evidence, and steers nothing"
        )


async def _replace_projected_history(pool: Pool, projection: Projection, decision: HistoryDecision) -> JsonObject:
    changed: JsonObject = {}

    async def decide(connection: Connection) -> None:
        nonlocal changed
        changed = await _set_conflicting_events_aside(connection, decision)

    outcome = await projection.place_parked_again(lane_of_session(*decision.session), decision.session, decide)
    await write_due_snapshots(pool, outcome.snapshots_due)
    return {**changed, "projected": len(outcome.appended), "still_parked": bool(outcome.parked_sessions)}


async def _set_conflicting_events_aside(connection: Connection, decision: HistoryDecision) -> JsonObject:
    """Set the projected events aside from the first conflict on."""
    session = decision.session
    conflicts = [row for row in await connection.fetch(_SELECT_PARKED, *session) if row["reason"] == "conflict"]
    if not conflicts:
        raise Refused(f"session {session[1]} is not in conflict any more")
    if any(row["kafka_partition"] != lane_of_session(*session) for row in conflicts):
        raise Refused(
            f"what waits of session {session[1]} is in a partition that is not the session's, where no relay puts it: "
            "discard it"
        )
    from_seq = min(row["first_seq"] for row in conflicts)
    head = await connection.fetchrow(_SELECT_HEAD, *session)
    if head is not None and from_seq <= head["archived_seq"]:
        raise Refused(
            f"events 1 to {head['archived_seq']} of session {session[1]} are in an archive, and can't be compared: "
            "flotilla audit archives shows the file, flotilla audit restore brings them back; then flotilla audit "
            f"parked retry {session[1]}"
        )
    await connection.execute(_DISCARD_CONFLICTING, *session, f"{SET_ASIDE_DETAIL_PREFIX} {decision}")
    await connection.execute(_MARK_CONFLICTS_WAITING, *session)
    if head is None or from_seq > head["seq"]:
        return {"from_seq": from_seq, "set_aside": 0}
    status = await connection.execute(_SET_EVENTS_ASIDE, *session, from_seq, f"{SET_ASIDE_DETAIL_PREFIX} {decision}")
    await _truncate_history_before(connection, decision, head, from_seq)
    return {"from_seq": from_seq, "set_aside": int(status.split()[-1])}


async def _truncate_history_before(
    connection: Connection, decision: HistoryDecision, head: asyncpg.Record, from_seq: int
) -> None:
    """Take the projected history back to the event before `from_seq`, and note the decision for the checkpoint."""
    session = decision.session
    before = head["first_seq"] - 1
    base = chain_hash_before(session, head, from_seq, await connection.fetchval(_SELECT_HASH, *session, from_seq - 1))
    snapshot_seq = before + (from_seq - 1 - before) // EVENTS_PER_SNAPSHOT * EVENTS_PER_SNAPSHOT
    await connection.execute(_DELETE_EVENTS, *session, from_seq)
    await connection.execute(_DELETE_USAGE, *session, from_seq)
    await connection.execute(_DELETE_SNAPSHOTS, *session, snapshot_seq)
    if from_seq > head["first_seq"]:
        moved = min(head["snapshot_seq"], snapshot_seq)
        await connection.execute(_MOVE_HEAD, *session, from_seq - 1, base, moved)
    else:
        await connection.execute(_DELETE_HEAD, *session)
    await add_rewind(connection, decision, head, from_seq, base)


async def _publish_stand_ins_for_gap(
    pool: Pool, publish: PublishSessionEvents, decision: HistoryDecision, first_waiting: int
) -> JsonObject:
    head = await pool.fetchrow(_SELECT_HEAD, *decision.session)
    if head is None:
        raise Refused(
            f"the first event of session {decision.session[1]} is lost, and what follows can't be chained to nothing: "
            "reject what waits"
        )
    missing = range(head["seq"] + 1, first_waiting)
    if len(missing) > MAX_STAND_IN_EVENTS:
        raise Refused(
            f"{len(missing)} events are missing, more than {MAX_STAND_IN_EVENTS}: restore Kafka, or reject what waits"
        )
    await publish(decision.session, [_make_stand_in_event(decision, seq) for seq in missing])
    return {"filled": len(missing), "from_seq": missing.start}


def _make_stand_in_event(decision: HistoryDecision, seq: int) -> bytes:
    """The same bytes each time, so that a request that is carried out again repeats nothing."""
    tenant_id, session_id = decision.session
    lost = ErrorRaised(
        type="EventLost",
        message=f"event {seq} was committed and is lost; accepted {decision}",
        where="audit-consumer",
    )
    return encode_event(
        AgentEvent(
            id=str(uuid5(_STAND_IN_NAMESPACE, f"{decision.request_id}/{seq}")),
            time=decision.asked_at,
            type=session_event_type("error"),
            source="/audit-consumer",
            subject=session_id,
            tenant=tenant_id,
            sequence=seq,
            data=to_builtins(lost),
        )
    )
