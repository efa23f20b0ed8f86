"""A process that freezes in the middle of a transaction does not keep its sessions locked."""

import asyncio
import signal
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from flotilla.eventstore import AgentEventStore
from flotilla.postgres import Pool, open_pool
from outbox_relay.rows import open_relay_pool
from tests.support.postgres import Database
from tests.support.session_events import append_messages

APPENDS_AND_FREEZES = """
import asyncio, sys
from flotilla.outbox import append
from flotilla.postgres import AWAY, open_pool, tenant_transaction
from tests.support.session_events import TENANT, message

async def main(dsn):
    async with open_pool(dsn, application="freezes", idle_in_transaction_s=2) as pool:
        try:
            async with tenant_transaction(pool, TENANT) as connection:
                await append(connection, TENANT, "s1", [message("never committed")])
                print("locked", flush=True)
                sys.stdin.readline()
        except AWAY:
            print("lost", flush=True)

asyncio.run(main(sys.argv[1]))
"""
SHOW = "SHOW idle_in_transaction_session_timeout"
FREE_WITHIN_S = 30


async def test_the_session_of_a_frozen_process_is_free_again(pool: Pool, database: Database) -> None:
    await append_messages(pool, "s1", ["one"])
    async with appending(database.dsn()) as frozen:
        frozen.send_signal(signal.SIGSTOP)
        async with asyncio.timeout(FREE_WITHIN_S):
            await append_messages(pool, "s1", ["two"])
        frozen.send_signal(signal.SIGCONT)
        said, _ = await frozen.communicate(b"go on\n")
    assert said == b"lost\n"
    assert [event.data["content"] for event in await AgentEventStore(pool).replay("s1")] == ["one", "two"]


async def test_every_pool_has_the_limit(database: Database) -> None:
    async with open_pool(database.dsn(), application="test") as pool:
        assert await pool.fetchval(SHOW) == "30s"
    async with open_pool(database.dsn(), application="test", idle_in_transaction_s=7) as pool:
        assert await pool.fetchval(SHOW) == "7s"
    async with open_relay_pool(database.dsn("flotilla_relay"), idle_in_transaction_s=7) as pool:
        assert await pool.fetchval(SHOW) == "7s"


@asynccontextmanager
async def appending(dsn: str) -> AsyncIterator[Process]:
    """A process that has appended to session s1 and not committed."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", APPENDS_AND_FREEZES, dsn, stdin=PIPE, stdout=PIPE
    )
    try:
        assert process.stdout is not None
        assert await process.stdout.readline() == b"locked\n"
        yield process
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
