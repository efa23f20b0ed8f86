"""A tenant moves to another fleet while both are at work: all of it, each event once, with the same chain."""

import asyncio
import shutil
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from pydantic import SecretStr

import outbox_relay.main
import outbox_relay.settings
from audit_consumer.connections import LIVE, open_projection_pool
from flotilla.audit.verify import HistoryVerifier, Verdict
from flotilla.backup import tenant_import
from flotilla.backup.manifest import MANIFEST
from flotilla.backup.settings import TenantExportSettings, TenantImportSettings
from flotilla.backup.tenant_export import export_tenant
from flotilla.backup.tenant_import import Imported, import_tenant
from flotilla.backup.tenant_manifest import TenantManifest
from flotilla.config import KafkaSettings
from flotilla.config.signing import create_key_pair, load_public_keys
from flotilla.contracts.errors import ConfigurationError, Invalid, Refused, TenantSuspended
from flotilla.encryption import Keyring
from flotilla.encryption.roots import KeyFile, create_key_file
from flotilla.eventstore import AgentEventStore
from flotilla.eventstore.sessions import fork_session
from flotilla.kafka.session_log import open_kafka_log
from flotilla.postgres import Pool, SuspendedTenants, open_pool, tenant_transaction
from flotilla.runtime import Runtime
from flotilla_devstack import RunningStack
from tests.integration.backup.saved import Stores, passphrase_file, silent
from tests.support.audit import audit_settings, project_directly, records_of, running_audit
from tests.support.postgres import Database, cloned
from tests.support.session_events import append_messages, read_topic, topics_named
from tests.support.waiting import eventually

EVENTS_UNDER_WAY = 20
"""That each session of a load has before its tenant moves."""
SUSPEND = """
INSERT INTO flotilla_ops.tenants (tenant_id, created_by, suspended_by, suspended_at, suspended_for)
VALUES ('acme', '', 'otto', now(), 'it moves')
ON CONFLICT (tenant_id) DO UPDATE SET suspended_by = 'otto', suspended_at = now(), suspended_for = 'it moves'
"""
PARKED = """
INSERT INTO audit.parked_events (tenant_id, kafka_partition, kafka_offset, session_id, seq, reason, detail, body)
VALUES ('acme', 0, 0, 's5', 9, 'gap', 'd', '')
"""
UNDER_WAY = """
INSERT INTO flotilla.runs (tenant_id, run_id, session_id, user_id, workflow_id, query, status, request)
VALUES ('acme', 'r', 's0', 'u', 'run-r', 'q', 'running', '{}')
"""
GIVEN_OUT = """
INSERT INTO flotilla.delegations (tenant_id, task_id, attempt, root_task_id, hop, agent, slip, session_id, workflow_id,
    workflow_run_id, activity_id, deadline, secret_hash)
VALUES ('acme', 't', 1, 't', 1, 'a', '{}', 's0', 'w', 'r', 'x', now(), decode(repeat('00', 32), 'hex'))
"""
# As a killed tool gateway leaves it, where the agent's task was cancelled meanwhile: no try comes after it.
LEFT_OPEN = GIVEN_OUT.replace("'t', 1, 't'", "'t.mcp.0', 0, 't.mcp.0'").replace("now()", "now() - interval '3 hours'")
OTHER_ROWS = """
INSERT INTO flotilla.documents
    (tenant_id, document_id, uri, title, media_type, content_hash, size_bytes, body, passages)
VALUES ('acme', 'd', 'u', 't', 'text/plain', 'x', 1, 'b', 1);
INSERT INTO flotilla.agent_actions (tenant_id, agent_id, session_id, task_id, action_type, payload)
SELECT 'acme', 'a', 's0', 't', 'x', '{}' FROM generate_series(1, 50)
"""
RESUME = "UPDATE flotilla_ops.tenants SET suspended_by = NULL, suspended_at = NULL, suspended_for = NULL"
EVENTS = "SELECT session_id, seq, event_id::text, hash FROM audit.session_events WHERE tenant_id = $1 ORDER BY 1, 2"
ROWS = "SELECT count(*) FROM flotilla.{} WHERE tenant_id = 'acme'"


async def execute(stores: Stores, statement: str) -> None:
    connection = await asyncpg.connect(stores.database.superuser_dsn)
    await connection.execute(statement)
    await connection.close()


async def fetch(stores: Stores, query: str, *arguments: object) -> list[tuple[Any, ...]]:
    connection = await asyncpg.connect(stores.database.superuser_dsn)
    rows = await connection.fetch(query, *arguments)
    await connection.close()
    return [tuple(row) for row in rows]


async def exported(source: Stores, to: Path, **given: Any) -> TenantManifest:
    create_key_pair(source.folder / "backup.pem", source.folder / "backup.pub")
    options = {name: given.pop(name) for name in ("with_open_work", "settled_s") if name in given}
    settings = TenantExportSettings(
        postgres_dsn=SecretStr(source.database.dsn("flotilla_backup")),
        backup_signing_key_file=source.folder / "backup.pem",
        **given,
    )
    return await export_tenant(settings, "acme", to, silent, **{"settled_s": 0.0, **options})


async def imported(target: Stores, folder: Path, **given: Any) -> Imported:
    settings = TenantImportSettings(
        postgres_dsn=SecretStr(target.database.superuser_dsn),
        backup_public_key_file=target.folder.parent / "backup.pub",
        **given,
    )
    return await import_tenant(settings, folder, silent)


async def verified(stores: Stores) -> Verdict:
    async with open_pool(stores.database.dsn(), application="test") as pool, open_kafka_log(stores.kafka) as log:
        return await HistoryVerifier(pool, "acme", load_public_keys(stores.folder / "audit.pub"), log).verify_sessions(
            None
        )


@asynccontextmanager
async def at_work(stores: Stores) -> AsyncIterator[None]:
    """A relay and an audit consumer of the fleet's own."""
    settings = outbox_relay.settings.Settings(
        postgres_dsn=SecretStr(stores.database.dsn("flotilla_relay")),
        kafka_bootstrap_servers=stores.kafka.kafka_bootstrap_servers,
        kafka_session_events_topic=stores.kafka.kafka_session_events_topic,
        kafka_checkpoints_topic=stores.kafka.kafka_checkpoints_topic,
    )
    runtime = Runtime("outbox-relay")
    relay = asyncio.create_task(outbox_relay.main.run(settings, runtime))
    try:
        async with running_audit(audit_settings(stores.database, stores.kafka, stores.folder)):
            yield
    finally:
        runtime.request_stop("end of the test")
        await relay


@pytest.fixture
async def target(
    stack: RunningStack, database_template: str, kafka_bootstrap: str, unique: Callable[[str], str], tmp_path: Path
) -> AsyncIterator[Stores]:
    """Another fleet, with a tenant whose sessions have the same names."""
    kafka = await topics_named(kafka_bootstrap, unique("events"))
    folder = tmp_path / "target"
    folder.mkdir()
    async with cloned(stack.postgres_dsn("postgres"), database_template, unique("flotilla_target")) as database:
        stores = Stores(database, kafka, folder)
        async with open_pool(database.dsn(), application="test") as pool:
            await append_messages(pool, "s0", ["somebody else's"], "globex")
        yield stores


@dataclass
class Load:
    """Writers of one tenant, who stop when they are refused; what was acknowledged to them."""

    stores: Stores
    tenant: str
    acknowledged: dict[str, list[str]] = field(default_factory=dict)

    async def write(self, session: str, pool: Pool, suspended: SuspendedTenants) -> None:
        ids = self.acknowledged[session]
        while True:
            try:
                await suspended.check_active(self.tenant)
            except TenantSuspended:
                return
            ids += await append_messages(pool, session, ["under load"], self.tenant)

    def is_under_way(self) -> bool:
        """Whether each session has some events."""
        return all(len(ids) >= EVENTS_UNDER_WAY for ids in self.acknowledged.values())

    @asynccontextmanager
    async def running(self, sessions: int) -> AsyncIterator[asyncio.Task[Any]]:
        self.acknowledged = {f"load-{number}": [] for number in range(sessions)}
        async with open_pool(self.stores.database.dsn(), application="test", max_size=4) as pool:
            suspended = SuspendedTenants(pool, with_finishing=True)
            writers = [self.write(session, pool, suspended) for session in self.acknowledged]
            task = asyncio.ensure_future(asyncio.gather(*writers))
            try:
                yield task  # type: ignore[misc]
            finally:
                task.cancel()


@pytest.mark.timeout(400)
async def test_a_tenant_moves_under_load_without_a_lost_or_doubled_event(
    source: Stores, target: Stores, tmp_path: Path
) -> None:
    theirs, others, there = Load(source, "acme"), Load(source, "default"), Load(target, "globex")
    async with at_work(source), at_work(target), others.running(2), there.running(2), theirs.running(3) as writing:
        await eventually(lambda: all(load.is_under_way() for load in (theirs, others, there)), timeout_s=60)
        await execute(source, SUSPEND)
        await asyncio.wait_for(writing, 10)

        async def settled() -> TenantManifest | None:
            try:
                return await exported(source, tmp_path / "export")
            except Refused as refused:
                if "not projected" not in str(refused):
                    raise
                return None

        manifest = await eventually(settled, 120)
        assert (await imported(target, tmp_path / "export")).was_done is False
        assert (await imported(target, tmp_path / "export")).was_done is True
        await execute(target, RESUME)
        async with open_pool(target.database.dsn(), application="test") as pool:
            for session, ids in theirs.acknowledged.items():
                ids.extend(await append_messages(pool, session, ["goes on"] * 3, "acme"))

        async def all_projected() -> bool:
            count = "SELECT count(*) FROM audit.session_events WHERE tenant_id = 'acme'"
            [(found,)] = await fetch(target, count)
            return bool(found == manifest.events.rows + 9)

        await eventually(all_projected, 120)
    verdict = await verified(target)
    assert (verdict.ok, len(verdict.sessions)) == (True, 5), verdict
    before, after = await fetch(source, EVENTS, "acme"), await fetch(target, EVENTS, "acme")
    assert [row for row in after if row in set(before)] == before, "the chain is the same, hash by hash"
    for session, ids in theirs.acknowledged.items():
        assert len(ids) > 5
        assert [row[2] for row in after if row[0] == session] == ids
    log = [(record.key, record.seq) for record in await read_topic(target.kafka) if record.key.startswith("acme/")]
    assert len(log) == len(set(log)) == len(after)
    parked = "SELECT count(*) FROM audit.parked_events"
    assert (await fetch(source, parked), await fetch(target, parked)) == ([(0,)], [(0,)])


async def project(stores: Stores) -> None:
    """What relay and audit consumer do, once and without Kafka."""
    rows = await fetch(stores, "SELECT tenant_id, session_id, body FROM flotilla.event_outbox ORDER BY id")
    async with open_projection_pool(stores.database.dsn("flotilla_audit"), LIVE, application="test") as pool:
        await project_directly(pool, records_of((row[0], row[1], row[2]) for row in rows))
    await execute(stores, "DELETE FROM flotilla.event_outbox")


@pytest.fixture
async def source(database: Database, pool: Pool, kafka: KafkaSettings, tmp_path: Path) -> Stores:
    """A fleet with two tenants."""
    for tenant, session in (("acme", "s0"), ("acme", "s5"), ("default", "s1")):
        await append_messages(pool, session, [f"m{seq}" for seq in range(1, 6)], tenant)
    return Stores(database, kafka, tmp_path)


@pytest.fixture
async def suspended(source: Stores) -> Stores:
    await project(source)
    await execute(source, SUSPEND)
    return source


UNSETTLED = (
    (RESUME, SUSPEND, "is not suspended"),
    (
        "UPDATE flotilla.sessions SET head_seq = head_seq + 1 WHERE session_id = 's0'",
        "UPDATE flotilla.sessions SET head_seq = head_seq - 1 WHERE session_id = 's0'",
        "not projected (s0)",
    ),
    (PARKED, "DELETE FROM audit.parked_events", "not projected (s5)"),
    (GIVEN_OUT, "DELETE FROM flotilla.delegations", "agents work on 1 tasks"),
    (UNDER_WAY, "SELECT 1", "1 runs, actions, orders or tasks under way"),
)
"""What keeps a tenant from being exported, how it ends, and what the message says."""


async def test_what_is_not_settled_is_not_exported(suspended: Stores, tmp_path: Path) -> None:
    for before, after, why in UNSETTLED:
        await execute(suspended, before)
        with pytest.raises(Refused) as refused:
            await exported(suspended, tmp_path / "export")
        assert why in str(refused.value)
        assert not (tmp_path / "export").exists()
        await execute(suspended, after)
    await execute(suspended, LEFT_OPEN)
    assert (await exported(suspended, tmp_path / "export", with_open_work=True)).open_work == 1
    steps: list[str] = []
    await execute(suspended, f"{RESUME}; {SUSPEND}")
    settings = TenantExportSettings(
        postgres_dsn=SecretStr(suspended.database.dsn("flotilla_backup")),
        backup_signing_key_file=suspended.folder / "backup.pem",
    )
    to = tmp_path / "later"
    await export_tenant(settings, "acme", to, lambda what, *_: steps.append(what), settled_s=1.5, with_open_work=True)
    assert any("from before the suspension" in step for step in steps)


def changed_event(folder: Path) -> None:
    [file] = folder.glob("postgres/audit.session_events*")
    file.write_bytes(file.read_bytes()[:-9] + b"x" * 9)


def changed_manifest(folder: Path) -> None:
    file = folder / MANIFEST
    file.write_text(file.read_text().replace('"tenant_id":"acme"', '"tenant_id":"evil"'))


async def test_an_import_is_all_of_what_was_signed_or_nothing(
    suspended: Stores, target: Stores, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await exported(suspended, tmp_path / "export")
    for change in (changed_event, changed_manifest):
        copy = shutil.copytree(tmp_path / "export", tmp_path / change.__name__)
        change(copy)
        with pytest.raises((Refused, Invalid)):
            await imported(target, copy)

    async def killed(*_: object) -> None:
        raise ConnectionError("killed")

    with monkeypatch.context() as patch:
        patch.setattr(tenant_import, "_queue_events", killed)
        with pytest.raises(ConnectionError):
            await imported(target, tmp_path / "export")
    assert await fetch(target, ROWS.format("sessions")) == [(0,)]
    await execute(target, "INSERT INTO flotilla_ops.tenants (tenant_id, created_by) VALUES ('acme', 'x')")
    with pytest.raises(Refused, match="knows a tenant acme"):
        await imported(target, tmp_path / "export")
    await execute(target, "DELETE FROM flotilla_ops.tenants")
    person = "INSERT INTO flotilla.people (tenant_id, subject, display_name, roles) VALUES ('acme', 'eve', 'Eve', '{}')"
    await execute(target, person)
    with pytest.raises(Refused, match="knows a tenant acme"):
        await imported(target, tmp_path / "export")
    await execute(target, "DELETE FROM flotilla.people")
    assert (await imported(target, tmp_path / "export")).was_done is False
    assert await fetch(target, ROWS.format("sessions")) == [(2,)]
    assert await fetch(target, ROWS.format("event_outbox")) == [(10,)]
    state = "SELECT imported_from IS NOT NULL, suspended_at IS NOT NULL FROM flotilla_ops.tenants"
    assert await fetch(target, state) == [(True, True)]
    await exported(suspended, tmp_path / "again")
    with pytest.raises(Refused, match="knows a tenant acme"):
        await imported(target, tmp_path / "again")


async def test_the_tenants_key_is_wrapped_by_the_other_fleets_root_and_forks_and_documents_come_along(
    source: Stores, target: Stores, tmp_path: Path
) -> None:
    roots = {name: tmp_path / f"{name}.keys" for name in ("source", "target")}
    for file in roots.values():
        create_key_file(file)
    keyring = Keyring(KeyFile(roots["source"]), writes=True)
    async with open_pool(source.database.dsn(), application="test", keyring=keyring) as encrypting:
        await append_messages(encrypting, "secret", ["the harbour master", "is Ada"], "acme")
        async with tenant_transaction(encrypting, "acme") as connection:
            await fork_session(connection, "acme", "secret", 1, new_session_id="fork", user_id="u", source="/tests")
        await append_messages(encrypting, "fork", ["is Bob"], "acme")
    await execute(source, OTHER_ROWS)
    await project(source)
    await execute(source, SUSPEND)
    phrase: Mapping[str, Any] = {"backup_passphrase_file": passphrase_file(tmp_path)}
    with pytest.raises(ConfigurationError, match="PASSPHRASE"):
        await exported(source, tmp_path / "export", encryption_key_file=roots["source"])
    await exported(source, tmp_path / "export", encryption_key_file=roots["source"], **phrase)
    with pytest.raises(ConfigurationError, match="root keys"):
        await imported(target, tmp_path / "export")
    await imported(target, tmp_path / "export", encryption_key_file=roots["target"], **phrase)
    reading = Keyring(KeyFile(roots["target"]), writes=True)
    await project(target)
    assert await fetch(source, EVENTS, "acme") == await fetch(target, EVENTS, "acme")
    async with open_pool(target.database.dsn(), application="test", keyring=reading) as there:
        events = await AgentEventStore(there, "acme").replay("fork")
        texts = [event.data["content"] for event in events if "content" in event.data]
        assert texts == ["the harbour master", "is Bob"]
        async with tenant_transaction(there, "acme") as connection:
            await connection.execute(
                "INSERT INTO flotilla.agent_actions (tenant_id, agent_id, session_id, task_id, action_type, payload)"
                " VALUES ('acme', 'a', 's0', 't', 'x', '{}')"
            )
        assert (await HistoryVerifier(there, "acme").verify_sessions(None)).ok
    numbers = await fetch(target, "SELECT count(*), count(DISTINCT action_seq) FROM flotilla.agent_actions")
    assert numbers == [(51, 51)]
    assert await fetch(target, ROWS.format("documents")) == [(1,)]
