"""A fleet with history gets its roles: former services go on as flotilla_app until an operator ends it."""

import re
import shutil
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import asyncpg
import pytest

import flotilla.postgres.migrate
from flotilla.contracts.session_events import AgentStateEvent
from flotilla.outbox import append
from flotilla.postgres import ITSELF, TaskProof, acting_as, acting_for_task, open_pool, tenant_transaction
from flotilla.postgres.migrate import migrate
from flotilla.postgres.schema import MIGRATIONS
from flotilla_devstack import RunningStack
from tests.support.agents import delegate, task
from tests.support.postgres import Database, drop, with_database

UPGRADING = (Path(__file__).parents[3] / "UPGRADING.md").read_text(encoding="utf-8")
(TAKEN_AWAY,) = [code for code in re.findall(r"```sql\n(.*?)```", UPGRADING, re.DOTALL) if "flotilla_app" in code]
# What a former version appends with, and what it takes its leases with.
_FORMER = """
UPDATE flotilla.sessions SET head_seq = head_seq + 1 WHERE tenant_id = 'default' AND session_id = 's1';
INSERT INTO flotilla.event_outbox (lane, tenant_id, session_id, seq, event_id, body)
    SELECT 3, 'default', 's1', head_seq, gen_random_uuid(), '{}' FROM flotilla.sessions;
INSERT INTO flotilla.dead_letters (tenant_id, dead_letter_id, stream, consumer_group, entry_id, reason, error,
    attempts, body)
    VALUES ('default', gen_random_uuid()::text, 'flotilla.tasks.a', 'g', '1', 'refused', 'e', 1, '')
    ON CONFLICT DO NOTHING;
INSERT INTO flotilla_ops.leases AS l (name, owner, expires_at) VALUES ('leader', 'old', now())
    ON CONFLICT (name) DO UPDATE SET owner = excluded.owner;
INSERT INTO flotilla_ops.agents AS a (name, instance, version, stream, consumer_group, concurrency, input_schema,
    output_schema) VALUES ('adder', 'old', '1', 's', 'g', 1, '{}', '{}')
    ON CONFLICT (name, instance) DO UPDATE SET last_seen = now();
UPDATE flotilla.approvals SET status = 'cancelled'
"""
FORMER = [statement.strip() for statement in _FORMER.split(";")]
OPEN = "INSERT INTO flotilla.sessions (tenant_id, session_id, user_id) VALUES ('default', 's1', 'alice')"


@pytest.fixture
async def former(
    stack: RunningStack, unique: Callable[[str], str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Database]:
    """A database of the version before the roles, with an open session of its own."""
    name = unique("flotilla_former").replace("-", "_")
    server = stack.postgres_dsn("postgres")
    owner = await asyncpg.connect(server)
    await owner.execute(f'CREATE DATABASE "{name}"')
    await owner.close()
    for file in sorted(MIGRATIONS.glob("*.sql")):
        if file.stem < "0024":
            shutil.copy(file, tmp_path)
    monkeypatch.setattr(flotilla.postgres.migrate, "MIGRATIONS", tmp_path)
    database = Database(with_database(server, name))
    migrate(database.superuser_dsn)
    monkeypatch.undo()
    await as_former(database, OPEN, *FORMER)
    yield database
    await drop(server, name)


async def as_former(database: Database, *statements: str) -> None:
    """Run them one by one as a service of the former version."""
    async with open_pool(database.dsn("flotilla_app"), application="former") as pool:
        for statement in statements:
            async with tenant_transaction(pool, "default") as connection:
                await connection.execute(statement)


async def test_old_and_new_services_write_side_by_side_until_the_operator_ends_it(former: Database) -> None:
    assert "0024_roles" in migrate(former.superuser_dsn)
    await as_former(former, *FORMER)
    async with open_pool(former.dsn("flotilla_app"), application="former") as pool:
        await delegate(pool, task())
    await new_services_append(former)

    owner = await asyncpg.connect(former.superuser_dsn)
    try:
        await owner.execute(re.sub(r"ALTER ROLE .*;", "", TAKEN_AWAY))  # the role is shared by the tests' databases
        seqs = [row["seq"] for row in await owner.fetch("SELECT seq FROM flotilla.event_outbox ORDER BY id")]
    finally:
        await owner.close()
    assert seqs == [1, 2, 3, 4, 5]
    for statement in (*FORMER, "SELECT * FROM flotilla.api_keys", "SELECT flotilla.authenticate('x')"):
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await as_former(former, statement)
    await new_services_append(former)


async def new_services_append(database: Database) -> None:
    """Gateway, worker and an agent with a ticket each write an event into the session of the former version."""
    sources = {"flotilla_gateway": "/gateway", "flotilla_worker": "/workflow-worker", "flotilla_agent": "/agents/adder"}
    for role, source in sources.items():
        held = TaskProof(task_id="t1", attempt=1, secret="a secret") if role == "flotilla_agent" else None
        said = AgentStateEvent(
            kind="message", data={"role": "assistant", "content": role}, source=source, task_id="t1" if held else None
        )
        async with open_pool(database.dsn(role), application="new") as pool:
            with acting_for_task(held), acting_as(ITSELF):
                async with tenant_transaction(pool, "default") as connection:
                    await append(connection, "default", "s1", [said])
