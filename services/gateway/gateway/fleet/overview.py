"""One look at everything that may pile up: streams, outbox, audit, approvals, orders."""

from collections.abc import Mapping

import structlog

from flotilla.bus import Redis
from flotilla.contracts.errors import RetryLater
from flotilla.contracts.ids import utc_now
from flotilla.kafka.session_log import KafkaEventLog
from flotilla.outbox import parked
from flotilla.postgres import ITSELF, Connection, Pool, acting_as, tenant_transaction
from gateway.fleet.streams import StreamLoad, load_stream_loads
from gateway.schemas.overview import AuditLoad, Fleet, OutboxLoad, Stream

_SELECT_AGENTS = "SELECT DISTINCT name FROM flotilla_ops.agents ORDER BY name"
_SELECT_DEAD_LETTERS = """
SELECT stream, count(*) AS letters FROM (
    SELECT stream FROM flotilla.dead_letters
    WHERE tenant_id = $1 AND redriven_at IS NULL AND discarded_at IS NULL LIMIT 10001) AS open
GROUP BY stream
"""
# Each counted up to 10,001.
_SELECT_COUNTS_APPROVALS = """
SELECT
    (SELECT count(*) FROM (SELECT FROM flotilla.approvals WHERE tenant_id = $1 AND status = 'pending' LIMIT 10001) AS a)
        AS approvals_pending,
    (SELECT count(*) FROM (
        SELECT FROM flotilla.orders WHERE tenant_id = $1 AND status = 'compensation_failed' LIMIT 10001) AS o)
        AS parked_orders,
    (SELECT count(*) FROM (
        SELECT FROM flotilla.runs WHERE tenant_id = $1 AND status IN ('pending', 'running', 'interrupted') LIMIT 10001
    ) AS r) AS runs_active,
    (SELECT count(*) FROM (
        SELECT DISTINCT session_id FROM audit.parked_events WHERE tenant_id = $1 LIMIT 10001) AS p) AS parked_sessions,
    (SELECT max(created_at) FROM audit.newest_checkpoints(NULL, NULL, 1)) AS checkpoint_at
"""
_PROJECTED = """
SELECT p.number, coalesce(audit.next_offset(p.number), 0) AS next_offset FROM unnest($1::integer[]) AS p (number)
"""
_MAX_PARKED = 1000
log = structlog.get_logger(__name__)


async def load_fleet_overview(pool: Pool, redis: Redis, kafka_log: KafkaEventLog, tenant_id: str) -> Fleet:
    """As a tenant sees it: streams, outbox and audit are the whole fleet's, everything else the whole
    tenant's."""
    streams = await load_stream_loads(redis, await load_agent_names(pool))
    lag = await measure_audit_lag(pool, kafka_log)
    with acting_as(ITSELF):  # numbers, of every session
        return await _numbers(pool, tenant_id, streams, lag)


async def _numbers(pool: Pool, tenant_id: str, streams: list[StreamLoad], lag: int | None) -> Fleet:
    async with tenant_transaction(pool, tenant_id) as connection:
        letters = {row["stream"]: row["letters"] for row in await connection.fetch(_SELECT_DEAD_LETTERS, tenant_id)}
        outbox = await _outbox(connection)
        counts = await connection.fetchrow(_SELECT_COUNTS_APPROVALS, tenant_id)
    assert counts is not None  # noqa: S101 - a SELECT of values has a row
    at = counts["checkpoint_at"]
    return Fleet(
        streams=_with_letters(streams, letters),
        outbox=outbox,
        audit=AuditLoad(
            lag_events=lag,
            checkpoint_age_s=(utc_now() - at).total_seconds() if at else None,
            parked_sessions=counts["parked_sessions"],
        ),
        approvals_pending=counts["approvals_pending"],
        parked_orders=counts["parked_orders"],
        runs_active=counts["runs_active"],
    )


async def load_agent_names(pool: Pool) -> list[str]:
    """Agents that ever registered."""
    return [row["name"] for row in await pool.fetch(_SELECT_AGENTS)]


async def measure_audit_lag(pool: Pool, kafka_log: KafkaEventLog) -> int | None:
    """Events in Kafka that are not projected yet; None while Kafka does not answer."""
    try:
        ends = await kafka_log.read_end_offsets()
    except RetryLater as error:
        log.info("audit_lag_unknown", error=str(error))
        return None
    rows = await pool.fetch(_PROJECTED, sorted(ends))
    projected = {int(row["number"]): int(row["next_offset"]) for row in rows}
    return sum(max(0, end - projected[partition]) for partition, end in ends.items())


async def _outbox(connection: Connection) -> OutboxLoad:
    status = await parked.load_outbox_status(connection, limit=_MAX_PARKED)
    return OutboxLoad(
        backlog_rows=status.backlog_rows, oldest_unpublished_s=status.oldest_unpublished_s, parked=len(status.parked)
    )


def _with_letters(streams: list[StreamLoad], letters: Mapping[str, int]) -> list[Stream]:
    """Also streams that have nothing but dead letters."""
    known = [
        Stream(
            stream=load.stream,
            group=load.group,
            lag=load.lag,
            pending=load.pending,
            oldest_pending_s=load.oldest_pending_s,
            dead_letters=letters.get(load.stream, 0),
        )
        for load in streams
    ]
    others = sorted(set(letters) - {load.stream for load in streams})
    return known + [
        Stream(stream=name, group="", lag=None, pending=0, oldest_pending_s=None, dead_letters=letters[name])
        for name in others
    ]
