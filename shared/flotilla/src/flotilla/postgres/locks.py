"""Advisory locks that one process holds for as long as it works on something."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from flotilla.postgres.pool import AWAY, Connection, Pool

# The holder's work is done on other connections.
_NO_LIMIT = "SET LOCAL idle_in_transaction_session_timeout = 0"
_TRY = "SELECT pg_try_advisory_xact_lock($1)"


@asynccontextmanager
async def try_advisory_lock(pool: Pool, key: int) -> "AsyncIterator[Connection | None]":
    """Hold the advisory lock `key` for the block; give the connection that holds it, None where another one does.

    It is that of a transaction, not of a session: a pooler in transaction mode lends connections for one transaction at
    a time. It ends with the connection, so a killed holder is in nobody's way. Between statements such a transaction
    has no snapshot, so it keeps no dead rows (source: PostgreSQL's manual, "Transaction Isolation", Read Committed).
    """
    async with pool.acquire() as connection:
        transaction = connection.transaction()
        await transaction.start()
        try:
            await connection.execute(_NO_LIMIT)
            yield connection if await connection.fetchval(_TRY, key) else None
        finally:
            with suppress(*AWAY):
                await transaction.rollback()
