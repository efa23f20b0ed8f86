"""Compares the projection as one table with one that is partitioned by month.

    python -m benchmarks.capacity.partitions [--sessions 20000] [--months 24] [--dsn postgresql://…]

Both hold the same events: sessions of 20, each within a month, in the order in which they happened. Printed are what
one page of a session takes to read (time, pages of 8 kB, time to plan), the indexes' size, and how long it takes to let
go of the oldest month.
"""

import argparse
import asyncio
import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import TypeAlias

import asyncpg

from flotilla_devstack import Stack

_COLUMNS = """
    tenant_id text NOT NULL, session_id text NOT NULL, seq bigint NOT NULL, event_id uuid NOT NULL, type text NOT NULL,
    occurred_at timestamptz NOT NULL, hash bytea NOT NULL, body bytea NOT NULL
"""
_ROWS = """
INSERT INTO {table} SELECT 'acme', 's' || s, n, gen_random_uuid(), 'flotilla.session.message.v1',
    timestamptz '2030-01-01' + make_interval(months => (s * {months} / {sessions})::int, mins => n::int),
    sha256((s || '/' || n)::bytea), convert_to(repeat(md5(s || chr(47) || n), 20), 'UTF8')
FROM generate_series(0, {sessions} - 1) AS s, generate_series(1, 20) AS n
"""
_PAGE = """
SELECT seq, body FROM {table} WHERE tenant_id = 'acme' AND session_id = $1 AND seq BETWEEN 1 AND 500 ORDER BY seq
"""
Server: TypeAlias = "asyncpg.Connection[asyncpg.Record]"


async def fill(connection: Server, sessions: int, months: int) -> None:
    """Make both tables."""
    await connection.execute(f"CREATE TABLE whole ({_COLUMNS}, PRIMARY KEY (tenant_id, session_id, seq))")
    # A unique key of a partitioned table has to hold the time, too.
    await connection.execute(
        f"CREATE TABLE monthly ({_COLUMNS}, PRIMARY KEY (tenant_id, session_id, seq, occurred_at))"
        " PARTITION BY RANGE (occurred_at)"
    )
    for month in range(months):
        first, following = (f"timestamptz '2030-01-01' + interval '{n} months'" for n in (month, month + 1))
        [bounds] = await connection.fetch(f"SELECT ({first})::text AS low, ({following})::text AS high")
        await connection.execute(
            f"CREATE TABLE monthly_{month} PARTITION OF monthly"
            f" FOR VALUES FROM ('{bounds['low']}') TO ('{bounds['high']}')"
        )
    for table in ("whole", "monthly"):
        await connection.execute(_ROWS.format(table=table, months=months, sessions=sessions))
    await connection.execute("VACUUM ANALYZE whole")
    await connection.execute("VACUUM ANALYZE monthly")


async def read_cost(connection: Server, table: str, sessions: int, repeat: int) -> tuple[float, float, float]:
    """Milliseconds of a page on the client's side, 8 kB pages that it touches, milliseconds to plan it."""
    query, times = _PAGE.format(table=table), []
    for number in range(repeat):
        began = time.perf_counter()
        rows = await connection.fetch(query, f"s{number * sessions // repeat}")
        times.append(1000 * (time.perf_counter() - began))
        assert len(rows) == 20
    literal = query.replace("$1", f"'s{sessions // 2}'")
    [(explained,)] = await connection.fetch(f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) {literal}")
    [plan] = json.loads(explained)
    pages = plan["Plan"]["Shared Hit Blocks"] + plan["Plan"]["Shared Read Blocks"]
    return statistics.median(times), pages, plan["Planning Time"]


async def compare(dsn: str, sessions: int, months: int, repeat: int) -> None:
    """Print the table."""
    connection: Server = await asyncpg.connect(dsn)
    try:
        await fill(connection, sessions, months)
        print(f"{sessions * 20:,} events, {months} months\n")
        print("| table | a session's page, p50 | pages touched | planned in | keys |")
        print("|---|---|---|---|---|")
        for table in ("whole", "monthly"):
            ms, pages, planned = await read_cost(connection, table, sessions, repeat)
            size = await connection.fetchval(
                "SELECT sum(pg_indexes_size(c.oid)) FROM pg_class AS c WHERE c.relname ~ $1 AND c.relkind = 'r'",
                f"^{table}(_[0-9]+)?$",
            )
            print(f"| {table} | {ms:.2f} ms | {pages} | {planned:.2f} ms | {int(size) / 1e6:.0f} MB |")
        began = time.perf_counter()
        await connection.execute("DELETE FROM whole WHERE occurred_at < timestamptz '2030-02-01'")
        deleted = time.perf_counter() - began
        began = time.perf_counter()
        await connection.execute("DROP TABLE monthly_0")
        print(f"\nthe oldest month: deleted in {deleted:.2f} s, dropped in {time.perf_counter() - began:.2f} s")
    finally:
        await connection.execute("DROP TABLE IF EXISTS whole, monthly")
        await connection.close()


def main() -> None:
    """Compare, on a server of its own unless one is named."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sessions", type=int, default=20_000)
    parser.add_argument("--months", type=int, default=24)
    parser.add_argument("--repeat", type=int, default=400)
    parser.add_argument("--dsn")
    given = parser.parse_args()
    if given.dsn:
        asyncio.run(compare(given.dsn, given.sessions, given.months, given.repeat))
        return
    with (
        tempfile.TemporaryDirectory(prefix="flotilla-partitions-") as folder,
        Stack(Path(folder), ("postgres",)) as stack,
    ):
        asyncio.run(compare(stack.postgres_dsn("postgres"), given.sessions, given.months, given.repeat))


if __name__ == "__main__":
    main()
