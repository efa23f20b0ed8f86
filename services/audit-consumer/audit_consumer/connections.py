"""Connections that read and write one generation of the projection: the live one, or the one being rebuilt.

All statements of the audit consumer name their tables without a schema.

A process that is frozen in the middle of a transaction (paused, swapped out, cut off) keeps its row locks for as long
as PostgreSQL keeps its connection, and the next owner of its partitions waits for them. So PostgreSQL ends what gets
no next statement for longer than any live consumer needs.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import structlog

from flotilla.postgres import Pool
from flotilla.postgres.connecting import PostgresConnector

LIVE, NEXT = "audit", "audit_next"

_STATEMENT_TIMEOUT_S = 10
_ANSWER_MARGIN_S = 2
"""What the server's own limit needs to be heard of."""
_IDLE_IN_TRANSACTION_TIMEOUT_S = 10
_CLOSE_TIMEOUT_S = 3.0

log = structlog.get_logger(__name__)


@asynccontextmanager
async def open_projection_pool(
    dsn: str,
    schema: str,
    *,
    application: str,
    max_size: int = 4,
    idle_in_transaction_s: int = _IDLE_IN_TRANSACTION_TIMEOUT_S,
    ca_file: str | None = None,
) -> AsyncIterator[Pool]:
    """A pool whose connections find the projection's tables in `schema`; opens lazily."""
    pool = await PostgresConnector(dsn, ca_file).open_pool(
        max_size=max_size,
        command_timeout=_STATEMENT_TIMEOUT_S + _ANSWER_MARGIN_S,
        server_settings={
            "application_name": application,
            "search_path": f"{schema}, pg_catalog, pg_temp",
            "statement_timeout": f"{_STATEMENT_TIMEOUT_S}s",
            "idle_in_transaction_session_timeout": f"{idle_in_transaction_s}s",
        },
    )
    try:
        yield pool
    finally:
        try:
            async with asyncio.timeout(_CLOSE_TIMEOUT_S):
                await pool.close()
        except TimeoutError:
            log.warning("postgres_pool_terminated", reason=f"connections still in use after {_CLOSE_TIMEOUT_S:g} s")
            pool.terminate()
