import asyncio
import json
import os
import stat
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

import asyncpg
import pytest

from flotilla.bus import connect_redis
from flotilla.contracts.api_keys import api_key_hash
from flotilla.contracts.names import BRIDGE_GROUP, REPLIES_STREAM, agent_group, agent_role, task_stream
from flotilla_devstack import RunningStack
from tests.support.postgres import Database, drop, with_database

Environment: TypeAlias = dict[str, str]


@pytest.fixture
async def empty(stack: RunningStack, unique: Callable[[str], str]) -> Database:
    """The address of a database that somebody still has to make."""
    return Database(with_database(stack.postgres_dsn("postgres"), unique("flotilla_install")))


@pytest.fixture
def environment(empty: Database, redis_url: str, kafka_bootstrap: str, unique: Callable[[str], str]) -> Environment:
    return {
        "FLOTILLA_POSTGRES_DSN": empty.superuser_dsn,
        "FLOTILLA_REDIS_URL": redis_url,
        "FLOTILLA_KAFKA_BOOTSTRAP_SERVERS": kafka_bootstrap,
        "FLOTILLA_KAFKA_SESSION_EVENTS_TOPIC": unique("events"),
        "FLOTILLA_KAFKA_CHECKPOINTS_TOPIC": unique("checkpoints"),
        "FLOTILLA_INSTALL_TIMEOUT_S": "60",
    }


async def started(environment: Environment, *arguments: str) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "flotilla.install",
        *arguments,
        env={**os.environ, **environment},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )


async def install(environment: Environment, *arguments: str) -> tuple[int | None, str]:
    process = await started(environment, *arguments)
    printed, said = await process.communicate()
    assert printed == b""
    return process.returncode, said.decode()


async def make_database(database: Database) -> None:
    server, name = database.superuser_dsn.rsplit("/", 1)
    connection = await asyncpg.connect(f"{server}/postgres")
    try:
        await connection.execute(f'CREATE DATABASE "{name}"')
    finally:
        await connection.close()


async def known_keys(database: Database) -> dict[str, tuple[bytes, list[str], bool]]:
    """Per key what `authenticate` says of it."""
    connection = await asyncpg.connect(database.superuser_dsn)
    try:
        hashes = await connection.fetch("SELECT name, key_hash FROM flotilla.api_keys")
        found = {}
        for row in hashes:
            who = await connection.fetchrow("SELECT * FROM flotilla.authenticate($1)", row["key_hash"])
            assert who is not None
            found[row["name"]] = (row["key_hash"], who["roles"], who["is_person"])
        return found
    finally:
        await connection.close()


async def test_two_installers_at_once_wait_for_the_database_and_agree(
    empty: Database, environment: Environment, redis_url: str, tmp_path: Path
) -> None:
    keys_file, signing = tmp_path / "deep" / "keys.json", tmp_path / "sign.pem"
    arguments = ("--keys-file", str(keys_file), "--signing-key-file", str(signing))
    try:
        first, second = await started(environment, *arguments), await started(environment, *arguments)
        assert first.stderr is not None
        waiting = await first.stderr.readline()
        while b"waiting_for_dependency" not in waiting:
            waiting = await first.stderr.readline()
        assert b"does not exist" in waiting
        await make_database(empty)
        await asyncio.gather(first.communicate(), second.communicate())
        assert (first.returncode, second.returncode) == (0, 0)

        keys = json.loads(keys_file.read_text())
        assert set(keys) == {"admin", "alice", "bob"}
        assert [stat.S_IMODE(file.stat().st_mode) for file in (keys_file, signing)] == [0o600, 0o600]
        stored = await known_keys(empty)
        assert stored == {
            "admin": (api_key_hash(keys["admin"]), ["admin"], False),
            "alice": (api_key_hash(keys["alice"]), ["operator", "approver"], True),
            "bob": (api_key_hash(keys["bob"]), ["operator", "approver"], True),
        }
        pem = signing.read_text()
        async with connect_redis(redis_url) as redis:
            groups = {task_stream(agent): agent_group(agent) for agent in ("research", "write")}
            for stream, group in {REPLIES_STREAM: BRIDGE_GROUP, **groups}.items():
                (found,) = await redis.xinfo_groups(stream)
                assert (found["name"], found["last-delivered-id"]) == (group.encode(), b"0-0")

        code, said = await install(environment, *arguments)
        assert code == 0, said
        assert json.loads(keys_file.read_text()) == keys
        assert await known_keys(empty) == stored
        assert signing.read_text() == pem

        keys_file.unlink()
        assert (await install(environment, *arguments))[0] == 0
        fresh = json.loads(keys_file.read_text())
        assert fresh.keys() == keys.keys()
        assert fresh["alice"] != keys["alice"]
        assert {name: row[0] for name, row in (await known_keys(empty)).items()} == {
            name: api_key_hash(key) for name, key in fresh.items()
        }
    finally:
        await drop(with_database(empty.superuser_dsn, "postgres"), empty.superuser_dsn.rsplit("/", 1)[1])


async def test_what_never_answers_is_named_with_its_reason(environment: Environment, tmp_path: Path) -> None:
    away = {
        **environment,
        "FLOTILLA_POSTGRES_DSN": "postgresql://x@127.0.0.1:1/x",
        "FLOTILLA_REDIS_URL": "redis://127.0.0.1:1/0",
        "FLOTILLA_INSTALL_TIMEOUT_S": "0.2",
    }
    code, said = await install(away, "--keys-file", str(tmp_path / "keys.json"))
    assert code == 1
    assert "PostgreSQL does not answer" in said
    assert "Redis does not answer" in said
    assert not (tmp_path / "keys.json").exists()


async def test_missing_settings_and_a_short_admin_key_are_misuse(database: Database, environment: Environment) -> None:
    code, said = await install({**environment, "FLOTILLA_KAFKA_REPLICATION_FACTOR": "0"})
    assert code == 2
    assert "FLOTILLA_KAFKA_REPLICATION_FACTOR" in said
    here = {**environment, "FLOTILLA_POSTGRES_DSN": database.superuser_dsn}
    code, said = await install({**here, "FLOTILLA_ADMIN_KEY": "short"})
    assert code == 2
    assert "FLOTILLA_ADMIN_KEY has 5 characters" in said
    assert (await install({**here, "FLOTILLA_ADMIN_KEY": "k" * 40}))[0] == 0
    assert (await known_keys(database))["admin"] == (api_key_hash("k" * 40), ["admin"], False)


async def test_each_agent_gets_a_role_of_its_own_with_its_password(
    database: Database, environment: Environment, unique: Callable[[str], str], tmp_path: Path
) -> None:
    agent = unique("translate")
    role = agent_role(agent)
    given = {
        **environment,
        "FLOTILLA_POSTGRES_DSN": database.superuser_dsn,
        "FLOTILLA_INSTALL_AGENTS": agent,
        "FLOTILLA_ROLE_PASSWORDS_DIR": str(tmp_path),
    }
    code, said = await install(given)
    assert code == 2
    assert role in said
    (tmp_path / role).write_text("a password\n")
    (tmp_path / "somebody_else").write_text("of no role of the fleet")
    owner = await asyncpg.connect(database.superuser_dsn)
    try:
        for _ in range(2):
            assert (await install(given))[0] == 0
            kept = await owner.fetchrow(
                "SELECT rolcanlogin, rolinherit, rolcreaterole, rolpassword LIKE 'SCRAM%' AS has_password, "
                "pg_has_role(oid, 'flotilla_agent', 'USAGE') AS is_agent, "
                "pg_has_role(oid, 'flotilla_agent', 'SET') AS becomes_it "
                "FROM pg_authid WHERE rolname = $1",
                role,
            )
            assert kept is not None
            assert tuple(kept) == (True, True, False, True, True, False)
    finally:
        await owner.execute(f'DROP ROLE IF EXISTS "{role}"')
        await owner.close()


async def test_an_agent_with_too_long_a_name_for_a_role_is_named(database: Database, environment: Environment) -> None:
    name = "a" * 49
    given = {**environment, "FLOTILLA_POSTGRES_DSN": database.superuser_dsn, "FLOTILLA_INSTALL_AGENTS": name}
    code, said = await install(given)
    assert code == 2
    assert f"agent {name} can have no role of its own" in said
