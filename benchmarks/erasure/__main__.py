"""Measures the erasure of one person in a large log, and what it touches.

    python -m benchmarks.erasure [--events 1000000] [--people 1000]

The projection is filled with encrypted events, a hundred in each session. Then one person is erased as `flotilla
privacy erase` and `confirm` do, and the worker's duty carries it to its end. The others stay readable: it is checked.
"""

import argparse
import asyncio
import tempfile
import time
from collections.abc import Iterator
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import asyncpg
import structlog

from benchmarks.retrieval.database import open_database
from flotilla.contracts.envelope import AgentEvent, encode_event
from flotilla.contracts.ids import new_id
from flotilla.encryption import Cipher, KeyFile, Keyring, create_key_file, sealed_data
from flotilla.eventstore import AgentEventStore
from flotilla.postgres import ITSELF, Pool, acting_as, open_pool, tenant_transaction, writing_cipher
from flotilla_devstack import stack_for_tests
from tests.support.postgres import Database
from workflow_worker.erasures import ErasureDuty

TENANT = "default"
IN_A_SESSION = 100
WORD = "unmistakable"
MESSAGE = "flotilla.session.message.v1"
ERASED = "user/flotilla/person-0"
_COLUMNS = [
    *("tenant_id", "session_id", "seq", "event_id", "type", "occurred_at", "kafka_partition", "kafka_offset", "hash"),
    "body",
]
_SESSIONS = """
INSERT INTO flotilla.sessions (tenant_id, session_id, user_id, owner, head_seq)
SELECT $1, format('s-%s-%s', p, n), 'person-' || p, 'user/flotilla/person-' || p, $4
FROM generate_series(0, $2 - 1) AS p, generate_series(0, $3 - 1) AS n
"""
_ASK = """
INSERT INTO flotilla.erasures (tenant_id, erasure_id, person, reason, requested_by) VALUES ($1, 'e', $2, 'r', 'otto')
"""
_FINISHED = "SELECT finished_at IS NOT NULL FROM flotilla.erasures WHERE tenant_id = $1 AND erasure_id = 'e'"
_TOUCHED = """
SELECT (SELECT count(*) FROM flotilla.person_keys WHERE erased_at IS NOT NULL) AS keys,
    (SELECT count(*) FROM flotilla.erasure_sessions) AS sessions, (SELECT count(*) FROM flotilla.event_outbox) AS events
"""


@dataclass(frozen=True)
class Log:
    """Who has how many sessions in it."""

    people: int
    sessions_each: int

    @property
    def events(self) -> int:
        return self.people * self.sessions_each * IN_A_SESSION

    def sessions(self) -> list[str]:
        return [f"s-{p}-{n}" for p in range(self.people) for n in range(self.sessions_each)]


async def fill(log: Log, pool: Pool, superuser: "asyncpg.Connection[asyncpg.Record]") -> None:
    """Sessions, their keys as the first who appends makes them, and their events as the projection holds them."""
    await superuser.execute(_SESSIONS, TENANT, log.people, log.sessions_each, IN_A_SESSION)
    for offset, session in enumerate(log.sessions()):
        async with tenant_transaction(pool, TENANT) as connection:
            cipher = await writing_cipher(connection, TENANT, session)
        assert cipher is not None
        records = list(_events(session, cipher, offset * IN_A_SESSION))
        await superuser.copy_records_to_table("session_events", schema_name="audit", columns=_COLUMNS, records=records)
    await superuser.execute("ANALYZE")


def _events(session: str, cipher: Cipher, offset: int) -> Iterator[tuple[Any, ...]]:
    for seq in range(1, IN_A_SESSION + 1):
        event_id = new_id()
        data = sealed_data("message", {"role": "user", "content": f"{WORD} {seq} " * 20}, cipher.key, event_id)
        event = AgentEvent(
            type=MESSAGE, source="/gateway", subject=session, data=data, id=event_id, tenant=TENANT, sequence=seq
        )
        body = encode_event(event)
        yield TENANT, session, seq, event_id, MESSAGE, event.time, 0, offset + seq, b"h" * 32, body


async def erase(gateway: Pool) -> float:
    """Ask and confirm, as the routes do; seconds of the confirmation, which destroys the key."""
    async with tenant_transaction(gateway, TENANT) as connection:
        await connection.execute(_ASK, TENANT, ERASED)
    began = time.perf_counter()
    async with tenant_transaction(gateway, TENANT) as connection:
        outcome = await connection.fetchval("SELECT flotilla.confirm_erasure($1, 'e', 'petra')", TENANT)
    assert outcome == "destroyed", outcome
    return time.perf_counter() - began


async def finish(worker: Pool, superuser: "asyncpg.Connection[asyncpg.Record]") -> float:
    """What the worker's duty does until each session has recorded it; seconds."""
    duty = ErasureDuty(worker)
    began = time.perf_counter()
    while not await superuser.fetchval(_FINISHED, TENANT):
        await duty.run_once()
    return time.perf_counter() - began


async def check(pool: Pool, log: Log) -> None:
    """The person's text is gone, and a neighbour's is there."""
    store = AgentEventStore(pool)
    for session, shown in (("s-0-0", False), (f"s-{log.people - 1}-0", True)):
        events = await store.replay(session, 1, IN_A_SESSION)
        assert all((WORD in str(event.data)) == shown for event in events), session


async def run(log: Log) -> None:
    """Fill a database, erase, and print what it took."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(30))
    with tempfile.TemporaryDirectory() as folder, stack_for_tests(("postgres",)) as stack:
        key_file = Path(folder) / "root.keys"
        create_key_file(key_file)
        async with open_database(stack.postgres_dsn("postgres")) as (database, _):
            await _measure(log, database, key_file)


async def _measure(log: Log, database: Database, key_file: Path) -> None:
    def opened(role: str) -> AbstractAsyncContextManager[Pool]:
        ring = Keyring(KeyFile(key_file), writes=True)
        return open_pool(database.dsn(role), application="benchmark", max_size=2, keyring=ring)

    superuser = await asyncpg.connect(database.superuser_dsn)
    try:
        async with opened("flotilla_gateway") as gateway, opened("flotilla_worker") as worker:
            began = time.perf_counter()
            await fill(log, worker, superuser)
            size = await superuser.fetchval("SELECT pg_size_pretty(pg_total_relation_size('audit.session_events'))")
            print(f"{log.events:,} events of {log.people:,} people, {size}, in {time.perf_counter() - began:.0f} s")
            written = await superuser.fetchval("SELECT pg_current_wal_insert_lsn()")
            with acting_as(ITSELF):
                confirmed = await erase(gateway)
            finished = await finish(worker, superuser)
            wal = await superuser.fetchval("SELECT pg_current_wal_insert_lsn() - $1::pg_lsn", written)
            async with opened("flotilla_app") as reader:
                await check(reader, log)
            [touched] = await superuser.fetch(_TOUCHED)
    finally:
        await superuser.close()
    print(f"key destroyed after {confirmed * 1000:.1f} ms; recorded in all sessions after {finished:.2f} s")
    print(f"rows: {dict(touched)}; write-ahead log {int(wal):,} bytes (with what else the server wrote)")


def main() -> None:
    """Parse the arguments and run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--events", type=int, default=1_000_000)
    parser.add_argument("--people", type=int, default=1_000)
    given = parser.parse_args()
    asyncio.run(run(Log(given.people, max(1, given.events // given.people // IN_A_SESSION))))


if __name__ == "__main__":
    main()
