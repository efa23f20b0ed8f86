"""A database of its own for a benchmark, dropped at the end."""

import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from flotilla.postgres import Pool, open_pool
from tests.support.postgres import Database, drop, make_template, with_database


@asynccontextmanager
async def open_database(server_dsn: str) -> AsyncIterator[tuple[Database, Pool]]:
    """A migrated database, and a pool of one connection to it as the application's role."""
    name = f"flotilla_bench_{secrets.token_hex(4)}"
    await make_template(server_dsn, name)
    database = Database(with_database(server_dsn, name))
    try:
        async with open_pool(database.dsn(), application="benchmark", max_size=1) as pool:
            yield database, pool
    finally:
        await drop(server_dsn, name)
