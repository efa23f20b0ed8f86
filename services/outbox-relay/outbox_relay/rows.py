"""Reads and deletes of outbox rows: whole pages, as arrays per lane (one record per row costs four times the CPU)."""

from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime

from flotilla.postgres import IDLE_IN_TRANSACTION_S, Connection, Pool
from flotilla.postgres.connecting import COMMAND_S, PostgresConnector
from outbox_relay.read_starts import EndedTransactionsHorizon, ReadPosition

# The lowest rows of some lanes, by a walk of the primary key; parked sessions stay out.
# $1 lanes, $2 low, $3 base, $4 running transactions, $5 rows at most, $6 bytes at most (passed by one row at most).
SELECT_OUTBOX_PAGE = """
SELECT page.lane,
       array_agg(page.id ORDER BY page.id) AS ids,
       array_agg(convert_to(page.tenant_id || '/' || page.session_id, 'UTF8') ORDER BY page.id) AS keys,
       array_agg(page.body ORDER BY page.id) AS bodies,
       array_agg(page.traceparent ORDER BY page.id) AS traceparents,
       min(page.created_at) AS oldest,
       sum(octet_length(page.body)) AS size_bytes
FROM (
    SELECT o.id, o.lane, o.tenant_id, o.session_id, o.body, o.traceparent, o.created_at,
           sum(octet_length(o.body)) OVER (ORDER BY o.id ROWS UNBOUNDED PRECEDING) - octet_length(o.body) AS before
    FROM flotilla.event_outbox AS o
    WHERE o.id >= CASE
            WHEN (SELECT bool_or(pg_visible_in_snapshot(x::xid8, pg_current_snapshot())) FROM unnest($4::text[]) AS x)
            THEN $3::bigint ELSE $2::bigint END
      AND o.lane = ANY ($1::smallint[])
      AND (o.tenant_id, o.session_id) NOT IN (SELECT p.tenant_id, p.session_id FROM flotilla.outbox_parked AS p)
    ORDER BY o.id
    LIMIT $5
) AS page
WHERE page.before < $6
GROUP BY page.lane
"""
# Rows that Kafka has acknowledged.
_DELETE_ROWS = "DELETE FROM flotilla.event_outbox WHERE id = ANY ($1::bigint[])"
# The highest row id drawn so far; NULL before the first.
_SELECT_LAST_ROW_ID = "SELECT CASE WHEN is_called THEN last_value END FROM flotilla.event_outbox_id_seq"
# A transaction id above all that were drawn before this statement.
_SELECT_OWN_TRANSACTION_ID = "SELECT pg_current_xact_id()::text::bigint"
# Transactions below $1 that have not ended.
_SELECT_RUNNING_TRANSACTIONS = """
SELECT coalesce(array_agg(x::text::bigint), '{}')
FROM pg_snapshot_xip(pg_current_snapshot()) AS x WHERE x < $1::text::xid8
"""


# The walk of the primary key is right at any size of the table, whatever its statistics say meanwhile; a page is
# sorted in memory, by one process: starting two more takes longer than the page does.
_PLANNER_SETTINGS = {
    "enable_seqscan": "off",
    "enable_bitmapscan": "off",
    "max_parallel_workers_per_gather": "0",
    "jit": "off",
    "work_mem": "32MB",
}
_SWEEP_TIMEOUT_S = 60.0
"""For a read from the very first row: long enough to step over a hundred million dead rows."""


@asynccontextmanager
async def open_relay_pool(
    dsn: str, *, idle_in_transaction_s: int = IDLE_IN_TRANSACTION_S, ca_file: str | None = None
) -> AsyncIterator[Pool]:
    """A small pool, lazily opened, whose connections plan the outbox's statements as they must be.

    Connections go back without a reset: nothing here leaves anything behind in a session, and a reset would double
    the round trips.
    """
    pool = await PostgresConnector(dsn, ca_file).open_pool(
        max_size=4,
        reset=_keep_connection_state,
        server_settings={
            "application_name": "outbox-relay",
            "idle_in_transaction_session_timeout": f"{idle_in_transaction_s}s",
            **_PLANNER_SETTINGS,
        },
    )
    try:
        yield pool
    finally:
        pool.terminate()


async def _keep_connection_state(_connection: Connection) -> None:
    """A pooled connection holds no state here."""


@dataclass(frozen=True, slots=True)
class OutboxRows:
    """Rows of one lane in order of id; the lists run in parallel."""

    lane: int
    ids: Sequence[int]
    keys: Sequence[bytes]
    """`<tenant>/<session>`."""
    bodies: Sequence[bytes]
    traceparents: Sequence[str | None]
    oldest: datetime


@dataclass(frozen=True, slots=True)
class OutboxPage:
    """What one read found, and where it ended."""

    lanes: Sequence[OutboxRows]
    rows: int
    read_to: int | None
    """The last id read when a limit cut the read short; None when it saw the end."""


async def read_outbox_page(
    connection: Connection, lanes: Sequence[int], start: ReadPosition, *, max_rows: int, max_bytes: int
) -> OutboxPage:
    """The lowest undeleted rows of `lanes`, `max_rows` and about `max_bytes` at most."""
    running = [str(xid) for xid in start.running]
    limit_s = _SWEEP_TIMEOUT_S if start.low == 0 else COMMAND_S
    records = await connection.fetch(
        SELECT_OUTBOX_PAGE, lanes, start.low, start.base, running, max_rows, max_bytes, timeout=limit_s
    )
    found = [OutboxRows(r["lane"], r["ids"], r["keys"], r["bodies"], r["traceparents"], r["oldest"]) for r in records]
    rows = sum(len(lane.ids) for lane in found)
    is_cut = rows >= max_rows or sum(r["size_bytes"] for r in records) >= max_bytes
    return OutboxPage(found, rows, max(lane.ids[-1] for lane in found) if is_cut else None)


async def delete_published_rows(connection: Connection, ids: Iterable[int]) -> None:
    """Take acknowledged rows out of the outbox."""
    await connection.execute(_DELETE_ROWS, list(ids))


async def draw_horizon(connection: Connection, *, above: EndedTransactionsHorizon) -> tuple[int, int] | None:
    """The highest row id drawn, then a transaction id above that of every transaction that drew it or one below.

    None when this would say no more than `above`.
    """
    last_id = await connection.fetchval(_SELECT_LAST_ROW_ID)
    if last_id is None or (last_id == above.last_id and not above.running):
        return None
    return int(last_id), int(await connection.fetchval(_SELECT_OWN_TRANSACTION_ID))


async def refresh_horizon(connection: Connection, last_id: int, own_xid: int) -> EndedTransactionsHorizon:
    """Which transactions from before the horizon still run."""
    return EndedTransactionsHorizon(
        last_id, frozenset(await connection.fetchval(_SELECT_RUNNING_TRANSACTIONS, str(own_xid)))
    )
