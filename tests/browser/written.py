"""Events that a test writes straight into a session's log, as a program does in its transaction."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import asyncpg

from flotilla.contracts.envelope import to_builtins
from flotilla.contracts.session_events import AgentStateEvent, SessionEventData, SessionEventKind
from flotilla.outbox import append
from flotilla.postgres import open_pool, tenant_transaction
from tests.e2e.fleet import Fleet

TENANT = "default"
_BATCH = 500
_OPEN = """
INSERT INTO flotilla.sessions (tenant_id, session_id, user_id) VALUES ($1, $2, 'alice') ON CONFLICT DO NOTHING
"""


def event(kind: SessionEventKind, data: SessionEventData, source: str = "/tests") -> AgentStateEvent:
    """An event that has no place yet."""
    return AgentStateEvent(kind=kind, data=to_builtins(data), source=source)


def write(fleet: Fleet, session_id: str, events: Sequence[AgentStateEvent]) -> None:
    """Appends them, in order, to a session that is opened if it is new."""
    port = fleet.process("postgres")["ports"]["postgres"]
    dsn = f"postgresql://flotilla_app@127.0.0.1:{port}/flotilla"
    # In a thread: Playwright has a loop in this one.
    with ThreadPoolExecutor(1) as thread:
        thread.submit(asyncio.run, _write(dsn, session_id, events)).result()


async def _write(dsn: str, session_id: str, events: Sequence[AgentStateEvent]) -> None:
    async with open_pool(dsn, application="test") as pool:
        for at in range(0, len(events), _BATCH):
            async with tenant_transaction(pool, TENANT) as connection:
                await connection.execute(_OPEN, TENANT, session_id)
                await append(connection, TENANT, session_id, list(events[at : at + _BATCH]))


def execute(fleet: Fleet, statement: str, *arguments: object) -> None:
    """Runs one statement as the database's superuser."""
    _as_superuser(fleet, lambda connection: connection.execute(statement, *arguments))


def value_of(fleet: Fleet, query: str, *arguments: object) -> object:
    """The one value that a query gives to the superuser."""
    return _as_superuser(fleet, lambda connection: connection.fetchval(query, *arguments))


def _as_superuser(fleet: Fleet, work: Callable[[asyncpg.Connection], Awaitable[object]]) -> object:
    port = fleet.process("postgres")["ports"]["postgres"]

    async def run() -> object:
        connection = await asyncpg.connect(f"postgresql://postgres@127.0.0.1:{port}/flotilla")
        try:
            return await work(connection)
        finally:
            await connection.close()

    # In a thread: Playwright has a loop in this one.
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(asyncio.run, run()).result()
