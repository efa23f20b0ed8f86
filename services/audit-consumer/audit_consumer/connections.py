"""Connections that read and write one generation of the projection: the live one, or the one being rebuilt.

All statements of the audit consumer name their tables without a schema.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import asyncpg

from flotilla.postgres import Connection, Pool

LIVE, NEXT = "audit", "audit_next"

# PostgreSQL has no COPY into a table under row level security; rows are staged here and moved with one INSERT.
_STAGE = """
CREATE TEMP TABLE staged_events (
    tenant_id text, session_id text, seq bigint, event_id uuid, type text, occurred_at timestamptz,
    run_id text, task_id text, rolled_back_to bigint, traceparent text,
    kafka_partition integer, kafka_offset bigint, hash bytea, body bytea
) ON COMMIT DELETE ROWS
"""


@asynccontextmanager
async def open_projection(dsn: str, schema: str, *, application: str, max_size: int = 4) -> AsyncIterator[Pool]:
    """A pool whose connections find the projection's tables in `schema`; opens lazily."""
    pool = asyncpg.create_pool(
        dsn,
        min_size=0,
        max_size=max_size,
        command_timeout=60,
        init=_make_stage,
        server_settings={"application_name": application, "search_path": f"{schema}, pg_catalog, pg_temp"},
    )
    async with pool:
        yield pool


async def _make_stage(connection: Connection) -> None:
    await connection.execute(_STAGE)
