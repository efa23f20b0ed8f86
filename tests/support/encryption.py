"""A root key, and pools that encrypt with it."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import asyncpg
import pytest

from flotilla.encryption import KeyFile, Keyring, create_key_file
from flotilla.postgres import Pool, open_pool
from tests.support.postgres import Database

_TABLES = """
SELECT c.oid::regclass::text FROM pg_class AS c
WHERE c.relkind = 'r' AND c.relnamespace::regnamespace::text IN ('flotilla', 'flotilla_ops', 'audit', 'audit_next')
"""


@pytest.fixture
def key_file(tmp_path: Path) -> Path:
    """A file with one root key."""
    create_key_file(tmp_path / "root.keys")
    return tmp_path / "root.keys"


@pytest.fixture
def keyring(key_file: Path) -> Keyring:
    """A keyring of that root, which encrypts."""
    return Keyring(KeyFile(key_file), writes=True)


@asynccontextmanager
async def encrypting_pool(database: Database, key_file: Path, role: str = "flotilla_app") -> AsyncIterator[Pool]:
    """A pool as another process has it: with a keyring of its own."""
    ring = Keyring(KeyFile(key_file), writes=True)
    async with open_pool(database.dsn(role), application="test", keyring=ring) as opened:
        yield opened


@pytest.fixture
async def sealing(database: Database, keyring: Keyring) -> AsyncIterator[Pool]:
    """A pool whose appends are encrypted."""
    async with open_pool(database.dsn(), application="test", keyring=keyring) as opened:
        yield opened


async def rows_with(database: Database, canary: str) -> list[str]:
    """The tables that hold `canary`, as text or as bytes, in any column."""
    connection = await asyncpg.connect(database.superuser_dsn)
    try:
        tables = [row[0] for row in await connection.fetch(_TABLES)]
        assert len(tables) > 50
        words = [f"%{canary}%", f"%{canary.encode().hex()}%"]
        has = "SELECT EXISTS (SELECT FROM {} AS t WHERE t::text LIKE ANY ($1))"
        return [table for table in tables if await connection.fetchval(has.format(table), words)]
    finally:
        await connection.close()
