"""Session events with encryption on: what is stored, who reads it, and what a destroyed key leaves."""

import asyncio
import secrets
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from flotilla.audit.admin_log import record_admin_changes
from flotilla.contracts.errors import Invalid, NotFound, SessionErased
from flotilla.contracts.session_events import AgentStateEvent
from flotilla.encryption import KeyFile, Keyring
from flotilla.encryption.keyring import FORGET_S
from flotilla.eventstore import AgentEventStore
from flotilla.eventstore.sessions import ensure_session
from flotilla.outbox import append
from flotilla.postgres import Connection, Pool, open_pool, session_cipher, tenant_transaction
from tests.support.encryption import encrypting_pool
from tests.support.postgres import Database

DESTROY = "UPDATE flotilla.person_keys SET wrapped_key = NULL, erased_at = now() WHERE person = 'user/flotilla/ada'"
LOCK = "SELECT FROM flotilla.sessions WHERE tenant_id = 'default' AND session_id = $1 FOR UPDATE"
COUNTS = """
SELECT (SELECT count(*) FROM flotilla.tenant_keys), (SELECT count(*) FROM flotilla.person_keys),
    (SELECT count(*) FROM flotilla.session_keys)
"""


def said(content: str) -> AgentStateEvent:
    return AgentStateEvent(kind="message", data={"role": "user", "content": content}, source="/test")


def counted(value: int) -> AgentStateEvent:
    return AgentStateEvent(kind="state_change", data={"change": "counted", "set": {"n": value}}, source="/test")


@dataclass
class Asked:
    """Counts what is asked on a connection."""

    connection: Connection
    times: int = 0

    async def fetchrow(self, query: str, *args: Any) -> Any:
        self.times += 1
        return await self.connection.fetchrow(query, *args)

    async def fetch(self, query: str, *args: Any) -> Any:
        self.times += 1
        return await self.connection.fetch(query, *args)

    async def execute(self, query: str, *args: Any) -> Any:
        return await self.connection.execute(query, *args)


@pytest.fixture
async def store(sealing: Pool) -> AgentEventStore:
    opened = AgentEventStore(sealing)
    await opened.ensure_session("s1", "ada")
    return opened


async def as_superuser(database: Database, statement: str) -> list[asyncpg.Record]:
    connection = await asyncpg.connect(database.superuser_dsn)
    try:
        return list(await connection.fetch(statement))
    finally:
        await connection.close()


async def outbox(database: Database) -> bytes:
    return b"".join(row["body"] for row in await as_superuser(database, "SELECT body FROM flotilla.event_outbox"))


async def contents(store: AgentEventStore, session_id: str = "s1") -> list[str]:
    return [message.content for message in (await store.state_at(session_id)).messages]


async def test_the_outbox_holds_no_word_and_readers_see_all(store: AgentEventStore, database: Database) -> None:
    canary = secrets.token_hex(16)
    appended = await store.append("s1", [said(canary), counted(3)])
    assert appended.events[0].data["content"] == canary
    stored = await outbox(database)
    assert canary.encode() not in stored
    assert b'"role":"user"' in stored
    assert await contents(store) == [canary]
    assert (await store.state_at("s1")).variables == {"n": 3}
    assert canary.encode() in (await store.read_page("s1")).bodies[0]
    assert [event.data for event in await store.replay("s1")] == [event.data for event in appended.events]


async def test_events_from_before_stay_readable(pool: Pool, sealing: Pool) -> None:
    clear = AgentEventStore(pool)
    await clear.ensure_session("s1", "ada")
    await clear.append("s1", [said("before")])
    store = AgentEventStore(sealing)
    await store.append("s1", [said("after")])
    assert await contents(store) == ["before", "after"]
    assert b"before" in (await clear.read_page("s1")).bodies[0]


async def test_a_process_without_the_root_key_reads_no_word(store: AgentEventStore, pool: Pool) -> None:
    await store.append("s1", [said("secret")])
    assert await contents(AgentEventStore(pool)) == ["[unreadable]"]


async def test_another_process_reads_and_adds_by_the_same_key(
    store: AgentEventStore, database: Database, key_file: Path
) -> None:
    await store.append("s1", [said("one")])
    async with encrypting_pool(database, key_file) as other:
        await AgentEventStore(other).append("s1", [said("two")])
        assert await contents(AgentEventStore(other)) == ["one", "two"]
    assert await contents(store) == ["one", "two"]
    assert tuple((await as_superuser(database, COUNTS))[0]) == (1, 1, 1)


async def test_processes_that_begin_a_session_at_once_agree_on_its_key(
    sealing: Pool, database: Database, key_file: Path
) -> None:
    store = AgentEventStore(sealing)
    for session in ("a", "b", "c"):
        await store.ensure_session(session, "ada")
    async with encrypting_pool(database, key_file) as one, encrypting_pool(database, key_file) as two:
        stores = [store, AgentEventStore(one), AgentEventStore(two)]
        await asyncio.gather(
            *(each.append(session, [said("x")]) for each in stores for session in ("a", "b", "c") for _ in range(3))
        )
        for each in stores:
            for session in ("a", "b", "c"):
                assert await contents(each, session) == ["x"] * 9
    assert tuple((await as_superuser(database, COUNTS))[0]) == (1, 1, 3)


async def test_a_key_of_a_transaction_that_rolled_back_is_not_used_again(
    store: AgentEventStore, sealing: Pool, database: Database, key_file: Path
) -> None:
    class Undone(Exception):
        pass

    async def undone() -> None:
        async with tenant_transaction(sealing, "default") as connection:
            await append(connection, "default", "s1", [said("lost")])
            raise Undone

    with pytest.raises(Undone):
        await undone()
    assert tuple((await as_superuser(database, COUNTS))[0]) == (0, 0, 0)
    await store.append("s1", [said("kept")])
    async with encrypting_pool(database, key_file) as other:
        assert await contents(AgentEventStore(other)) == ["kept"]


async def test_a_session_and_its_first_event_may_be_one_transaction(sealing: Pool, store: AgentEventStore) -> None:
    async with tenant_transaction(sealing, "default") as connection:
        await append(connection, "default", "s1", [said("one")])
        await append(connection, "default", "s1", [said("two")])
    assert await contents(store) == ["one", "two"]


async def test_one_look_up_serves_a_session_for_a_minute(store: AgentEventStore, sealing: Pool, key_file: Path) -> None:
    await store.append("s1", [said("first")])
    now = 0.0
    ring = Keyring(KeyFile(key_file), writes=True, clock=lambda: now)
    async with tenant_transaction(sealing, "default") as connection:
        asked = Asked(connection)
        for _ in range(5):
            assert await ring.writing(asked, "default", "s1") is not None
        assert asked.times == 1
        now = FORGET_S + 1
        await ring.writing(asked, "default", "s1")
        assert asked.times == 2


async def test_a_destroyed_key_leaves_marks_in_every_reading(
    store: AgentEventStore, database: Database, keyring: Keyring
) -> None:
    await store.append("s1", [said("secret"), counted(3)])
    await store.ensure_session("hers", "bea")
    await store.append("hers", [said("hers")])
    await as_superuser(database, DESTROY)
    keyring.forget()
    assert await contents(store) == ["[erased]"]
    assert (await store.state_at("s1")).variables == {}
    assert b"secret" not in b"".join((await store.read_page("s1")).bodies)
    assert await contents(store, "hers") == ["hers"]
    # What comes late is not kept; its place in the log is.
    await store.append("s1", [said("late words")])
    assert await contents(store) == ["[erased]", "[erased]"]
    assert b"late words" not in await outbox(database)


async def test_a_fork_keeps_its_parents_key_for_its_parents_events(
    store: AgentEventStore, database: Database, keyring: Keyring
) -> None:
    await store.append("s1", [said("ada's")])
    await store.fork("s1", 1, "fork", user_id="bea")
    await store.append("fork", [said("bea's")])
    assert await contents(store, "fork") == ["ada's", "bea's"]
    await as_superuser(database, DESTROY)
    keyring.forget()
    assert await contents(store, "fork") == ["[erased]", "bea's"]


async def test_a_replica_forgets_a_destroyed_key_within_a_minute(
    store: AgentEventStore, database: Database, key_file: Path
) -> None:
    await store.append("s1", [said("secret")])
    now = 0.0
    ring = Keyring(KeyFile(key_file), writes=True, clock=lambda: now)
    async with open_pool(database.dsn(), application="test", keyring=ring) as replica:
        reader = AgentEventStore(replica)
        assert await contents(reader) == ["secret"]
        await as_superuser(database, DESTROY)
        now = 60
        assert await contents(reader) == ["[erased]"]


async def test_who_comes_back_gets_a_new_key(store: AgentEventStore, database: Database, keyring: Keyring) -> None:
    await store.append("s1", [said("old")])
    await as_superuser(database, DESTROY)
    keyring.forget()
    await store.ensure_session("s2", "ada")
    await store.append("s2", [said("new")])
    assert (await contents(store), await contents(store, "s2")) == (["[erased]"], ["new"])


async def test_the_tenants_audit_session_stays_clear(sealing: Pool, database: Database) -> None:
    async with tenant_transaction(sealing, "default") as connection:
        await record_admin_changes(connection, "default", "/gateway", ("roles_changed", {"subject": "ada"}))
    assert b'"subject":"ada"' in await outbox(database)


async def test_a_tenant_gets_no_key_of_another(sealing: Pool, store: AgentEventStore) -> None:
    await store.append("s1", [said("secret")])
    async with tenant_transaction(sealing, "globex") as connection:
        assert await connection.fetchrow("SELECT * FROM flotilla.session_key('default', 's1')") is None
        await connection.execute("SELECT flotilla.add_keys('default', 's1', 'k', 'r', '1', '2', '3')")
    with pytest.raises(NotFound):
        await AgentEventStore(sealing, "globex").append("s1", [said("x")])
    assert await contents(store) == ["secret"]


@pytest.mark.parametrize("role", ["gateway", "worker", "agent", "relay", "audit"])
async def test_no_role_reads_the_tables_of_keys(store: AgentEventStore, database: Database, role: str) -> None:
    await store.append("s1", [said("secret")])
    connection = await asyncpg.connect(database.dsn(f"flotilla_{role}"))
    try:
        for table in ("tenant_keys", "person_keys", "session_keys"):
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await connection.fetch(f"SELECT wrapped_key FROM flotilla.{table}")
    finally:
        await connection.close()


async def test_an_agent_without_a_task_gets_no_key(store: AgentEventStore, database: Database, key_file: Path) -> None:
    await store.append("s1", [said("secret")])
    async with encrypting_pool(database, key_file, "flotilla_agent") as agents:
        async with tenant_transaction(agents, "default") as connection:
            assert await connection.fetchrow("SELECT * FROM flotilla.session_key('default', 's1')") is None
        async with agents.acquire() as connection:
            assert await session_cipher(connection, "default", "s1") is None


async def test_an_event_that_is_too_large_encrypted_is_refused(store: AgentEventStore) -> None:
    with pytest.raises(Invalid, match="900000 are allowed"):
        await store.append("s1", [said("x" * 700_000)])
    assert (await store.session("s1")).head_seq == 0


@pytest.mark.parametrize("own", ["[erased]", "flotilla:sealed:1:AAAA"])
async def test_nobody_writes_what_reads_as_encrypted(store: AgentEventStore, pool: Pool, own: str) -> None:
    event = AgentStateEvent(kind="state_change", data={"change": "noted", "sealed": own}, source="/test")
    for each in (store, AgentEventStore(pool)):
        with pytest.raises(Invalid, match="sealed"):
            await each.append("s1", [event])


async def test_nothing_new_begins_in_an_erased_session(
    sealing: Pool, store: AgentEventStore, database: Database
) -> None:
    await store.append("s1", [said("old")])
    await as_superuser(database, DESTROY)
    async with tenant_transaction(sealing, "default") as connection:
        with pytest.raises(SessionErased, match="use another session"):
            await ensure_session(connection, "default", "s1", "ada")
        await ensure_session(connection, "default", "s2", "ada")


async def test_two_who_begin_a_session_at_once_do_not_wait_for_each_other(
    sealing: Pool, store: AgentEventStore, database: Database, key_file: Path
) -> None:
    async with encrypting_pool(database, key_file) as other:
        for number in range(10):
            session = f"first-{number}"
            await store.ensure_session(session, f"person-{number}")

            async def locked_first(session: str = session) -> None:
                async with tenant_transaction(other, "default") as connection:
                    await connection.execute(LOCK, session)
                    await append(connection, "default", session, [said("a")])

            await asyncio.gather(locked_first(), store.append(session, [said("b")]))
            assert sorted(await contents(store, session)) == ["a", "b"]
