"""Another root key: what the former one wrapped is read without it, and services go on meanwhile."""

from pathlib import Path

import pytest

from flotilla.contracts.errors import ConfigurationError
from flotilla.contracts.session_events import AgentStateEvent
from flotilla.encryption import KeyFile, Keyring, create_key_file
from flotilla.eventstore import AgentEventStore
from flotilla.install.root_keys import rotate_root_key
from flotilla.postgres import Pool, open_pool
from flotilla.postgres.connecting import libpq_dsn
from tests.support.postgres import Database

TENANTS = ("default", "globex")


def said(content: str) -> AgentStateEvent:
    return AgentStateEvent(kind="message", data={"role": "user", "content": content}, source="/test")


def keep_first(key_file: Path) -> None:
    """Remove all keys but the one that wraps now."""
    key_file.write_bytes(key_file.read_bytes().splitlines()[0])


async def contents(pool: Pool, tenant: str) -> list[str]:
    return [message.content for message in (await AgentEventStore(pool, tenant).state_at("s1")).messages]


async def recorded(pool: Pool, text: str) -> None:
    for tenant in TENANTS:
        store = AgentEventStore(pool, tenant)
        await store.ensure_session("s1", "ada")
        await store.append("s1", [said(text)])


async def test_the_former_root_key_is_needed_no_more(sealing: Pool, database: Database, key_file: Path) -> None:
    await recorded(sealing, "one")
    root_id = create_key_file(key_file)
    dsn = libpq_dsn(database.superuser_dsn)
    assert await rotate_root_key(dsn, KeyFile(key_file)) == (root_id, len(TENANTS))
    assert await rotate_root_key(dsn, KeyFile(key_file)) == (root_id, 0)
    await recorded(sealing, "two")  # by a process that knew the former key alone
    keep_first(key_file)
    fresh = Keyring(KeyFile(key_file), writes=True)
    async with open_pool(database.dsn("flotilla_app"), application="test", keyring=fresh) as pool:
        for tenant in TENANTS:
            assert await contents(pool, tenant) == ["one", "two"]


async def test_a_file_without_the_former_key_changes_nothing(sealing: Pool, database: Database, tmp_path: Path) -> None:
    await recorded(sealing, "one")
    other = tmp_path / "other.keys"
    create_key_file(other)
    with pytest.raises(ConfigurationError, match="does not hold root key"):
        await rotate_root_key(libpq_dsn(database.superuser_dsn), KeyFile(other))
    assert await contents(sealing, "default") == ["one"]
