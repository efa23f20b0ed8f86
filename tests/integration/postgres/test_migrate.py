"""Migrations in a pod: its user has a number and no name, and it may be killed at any instant."""

import getpass
import secrets
from collections.abc import AsyncIterator

import asyncpg
import pytest
from yoyo.backends import DatabaseBackend

from flotilla.postgres.migrate import migrate
from flotilla.postgres.schema import MIGRATIONS
from flotilla_devstack import RunningStack
from tests.support.postgres import Database, cloned

ALL = sorted(path.stem for path in MIGRATIONS.glob("*.sql"))


@pytest.fixture
async def empty_database(stack: RunningStack) -> AsyncIterator[Database]:
    """A database that no migration touched."""
    async with cloned(stack.postgres_dsn("postgres"), "template1", f"empty_{secrets.token_hex(6)}") as database:
        yield database


async def test_a_user_without_a_name_migrates(empty_database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    def nameless() -> str:
        raise KeyError("getpwuid(): uid not found: 65532")

    monkeypatch.setattr(getpass, "getuser", nameless)

    assert migrate(empty_database.superuser_dsn) == ALL


async def test_migrations_print_nothing(empty_database: Database, capfd: pytest.CaptureFixture[str]) -> None:
    assert migrate(empty_database.superuser_dsn) == ALL

    assert capfd.readouterr().out == ""


async def test_a_migration_that_ends_before_its_mark_leaves_nothing_and_runs_again(
    empty_database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*_: object, **__: object) -> None:
        raise ConnectionResetError("killed before the mark")

    with monkeypatch.context() as patch:
        patch.setattr(DatabaseBackend, "mark_one", killed)
        with pytest.raises(ConnectionResetError):
            migrate(empty_database.superuser_dsn)

    connection = await asyncpg.connect(empty_database.superuser_dsn)
    try:
        assert await connection.fetchval("SELECT to_regnamespace('flotilla')") is None
    finally:
        await connection.close()
    assert migrate(empty_database.superuser_dsn) == ALL
