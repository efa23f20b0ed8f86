"""The four servers, for real: what they keep, how they fail, what they are set to."""

import asyncio
import secrets

import asyncpg
import pytest
import redis
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from temporalio.client import Client

from flotilla_devstack import SERVERS, ProgressEvent, RunningStack, Stack, wait_until
from flotilla_devstack.errors import NotOwnedError, NotRunningError, StateLockedError
from flotilla_devstack.ports import free_port
from flotilla_devstack.servers.base import Home
from flotilla_devstack.servers.kafka import KafkaServer
from flotilla_devstack.servers.postgres import PostgresServer
from flotilla_devstack.servers.redis import FLAVOURS, Flavour
from tests.integration.devstack.support import identity_of, listening_addresses
from tests.support.waiting import eventually

pytestmark = pytest.mark.timeout(180)


async def rows(dsn: str, sql: str) -> list[tuple[object, ...]]:
    connection = await asyncpg.connect(dsn, timeout=10)
    try:
        return [tuple(row) for row in await connection.fetch(sql)]
    finally:
        await connection.close()


async def new_topic(bootstrap: str) -> str:
    topic = f"devstack-{secrets.token_hex(4)}"
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap)
    await admin.start()
    try:
        await admin.create_topics([NewTopic(topic, num_partitions=1, replication_factor=1)])
    finally:
        await admin.close()
    return topic


async def publish(bootstrap: str, topic: str, *values: bytes) -> None:
    async with AIOKafkaProducer(bootstrap_servers=bootstrap, acks="all", enable_idempotence=True) as producer:
        for value in values:
            await producer.send_and_wait(topic, value)


async def first_values(bootstrap: str, topic: str, count: int) -> list[bytes | None]:
    consumer = AIOKafkaConsumer(topic, bootstrap_servers=bootstrap, auto_offset_reset="earliest")
    async with consumer, asyncio.timeout(30):
        return [(await consumer.getone()).value for _ in range(count)]


def test_every_server_reports_its_way_to_ready(own_stack: Stack, events: list[ProgressEvent]) -> None:
    assert set(own_stack.servers) == set(SERVERS)
    for name in SERVERS:
        phases = [event.phase for event in events if event.name == name]
        assert phases[0] == "preparing"
        assert phases[-1] == "ready"


@pytest.mark.parametrize("name", SERVERS)
def test_server_listens_on_its_ports_and_on_loopback_only(own_stack: Stack, name: str) -> None:
    server = own_stack.server(name)
    addresses = listening_addresses(identity_of(server.pid).process_tree())
    assert set(server.ports.values()) <= addresses.keys()
    assert set(addresses.values()) == {"127.0.0.1"}


async def test_stop_of_postgres_does_not_wait_for_its_clients(own_stack: Stack) -> None:
    connection = await asyncpg.connect(own_stack.postgres_dsn())
    server = own_stack.server("postgres")
    assert server.stop(timeout_s=15) == 0, "ended in order, not killed"
    connection.terminate()
    server.start()
    server.wait_ready()


async def test_postgres_is_durable_wide_and_has_the_stacks_database(own_stack: Stack) -> None:
    settings = await rows(
        own_stack.postgres_dsn(),
        "SELECT name, setting FROM pg_settings WHERE name IN ('fsync', 'synchronous_commit', 'max_connections')",
    )
    values = {str(name): str(setting) for name, setting in settings}
    assert values["fsync"] == values["synchronous_commit"] == "on"
    assert int(values["max_connections"]) >= 300
    version = await rows(own_stack.postgres_dsn("flotilla"), "SHOW server_version_num")
    assert str(version[0][0]).startswith("18")


async def test_committed_row_survives_kill_9_of_postgres(own_stack: Stack) -> None:
    dsn = own_stack.postgres_dsn()
    await rows(dsn, "CREATE TABLE kept (v int)")
    await rows(dsn, "INSERT INTO kept VALUES (7)")
    server = own_stack.server("postgres")
    server.kill()
    with pytest.raises(OSError, match=r"refused|Connect call failed"):
        await rows(dsn, "SELECT 1")
    server.start()
    server.wait_ready()
    assert await rows(dsn, "SELECT v FROM kept") == [(7,)]
    await rows(dsn, "DROP TABLE kept")


async def test_paused_postgres_answers_nobody_until_it_is_resumed(own_stack: Stack) -> None:
    connection = await asyncpg.connect(own_stack.postgres_dsn())
    server = own_stack.server("postgres")
    server.pause()
    try:
        with pytest.raises(TimeoutError):
            await asyncpg.connect(own_stack.postgres_dsn(), timeout=0.3)
        pending = asyncio.create_task(connection.fetchval("SELECT 1"))
        done, _ = await asyncio.wait([pending], timeout=0.3)
        assert not done, "an open session is paused as well"
    finally:
        server.resume()
    assert await pending == 1
    await connection.close()


async def test_role_with_a_password_needs_it(own_stack: Stack) -> None:
    server = own_stack.server("postgres")
    assert isinstance(server, PostgresServer)
    role = f"guarded_{secrets.token_hex(3)}"
    server.query_as_superuser(f"CREATE ROLE {role} LOGIN")
    without = own_stack.postgres_dsn("postgres", role)
    assert await rows(without, "SELECT 1") == [(1,)]
    server.set_role_password(role, "p@ss'w:rd/")
    with pytest.raises(asyncpg.InvalidPasswordError):
        await rows(without, "SELECT 1")
    assert await rows(own_stack.postgres_dsn("postgres", role), "SELECT current_user::text") == [(role,)]
    server.restart()
    with pytest.raises(asyncpg.InvalidPasswordError):
        await rows(without, "SELECT 1")


def test_database_is_made_once_and_dropped(own_stack: Stack) -> None:
    name = f"devstack_{secrets.token_hex(3)}"
    own_stack.create_database(name)
    own_stack.create_database(name)
    server = own_stack.server("postgres")
    assert isinstance(server, PostgresServer)
    assert server.query_as_superuser("SELECT current_database()", database=name) == name
    own_stack.drop_database(name)
    own_stack.drop_database(name)


def test_redis_never_evicts_and_keeps_what_it_was_given(own_stack: Stack) -> None:
    client = redis.Redis.from_url(own_stack.redis_url)
    settings = client.config_get("maxmemory-policy", "appendonly", "appendfsync")
    assert settings == {"maxmemory-policy": "noeviction", "appendonly": "yes", "appendfsync": "everysec"}
    client.xadd("devstack", {"n": "1"})
    server = own_stack.server("redis")
    server.kill()
    server.restart()
    assert client.xlen("devstack") == 1
    client.close()


async def test_acknowledged_message_survives_kill_9_of_kafka(own_stack: Stack) -> None:
    topic = await new_topic(own_stack.kafka_bootstrap)
    await publish(own_stack.kafka_bootstrap, topic, b"one", b"two")
    server = own_stack.server("kafka")
    server.kill()
    server.start()
    server.wait_ready()
    assert await first_values(own_stack.kafka_bootstrap, topic, 2) == [b"one", b"two"]


async def test_kafka_makes_no_topic_by_itself(own_stack: Stack) -> None:
    consumer = AIOKafkaConsumer(bootstrap_servers=own_stack.kafka_bootstrap)
    async with consumer:
        await consumer._client.fetch_all_metadata()
        before = await consumer.topics()
        consumer.subscribe([f"never-made-{secrets.token_hex(4)}"])
        await consumer.getmany(timeout_ms=500)
        assert await consumer.topics() == before


async def test_kafka_moves_to_other_ports_with_its_data(own_stack: Stack) -> None:
    def kafka() -> KafkaServer:
        ports = {"broker": free_port(), "controller": free_port()}
        scratch = own_stack.scratch_folder()
        server = KafkaServer(Home(scratch / "moving", scratch / "moving.log", ports, own_stack.ledger))
        server.prepare(lambda _: None)
        return server

    with kafka() as first:
        topic = await new_topic(first.bootstrap_address)
        await publish(first.bootstrap_address, topic, b"kept")
    with kafka() as second:
        assert second.ports != first.ports
        assert await first_values(second.bootstrap_address, topic, 1) == [b"kept"]


async def test_temporal_is_ready_with_its_namespace_and_keeps_it(own_stack: Stack) -> None:
    client = await Client.connect(own_stack.temporal_address)
    assert [w async for w in client.list_workflows("WorkflowType = 'Nothing'")] == []
    handle = await client.start_workflow("Unserved", id="kept", task_queue="nobody")
    own_stack.server("temporal").kill()
    own_stack.server("temporal").restart()
    again = await Client.connect(own_stack.temporal_address)
    description = await again.get_workflow_handle("kept").describe()
    assert description.run_id == handle.result_run_id
    await again.get_workflow_handle("kept").terminate()


@pytest.mark.parametrize("flavour", FLAVOURS)
async def test_private_redis_of_each_flavour(own_stack: Stack, flavour: Flavour) -> None:
    with own_stack.extra_redis(flavour, persistent=True) as server:
        client = redis.Redis.from_url(server.url)
        client.xadd("tasks", {"n": "1"})
        client.xgroup_create("tasks", "agents", id="0")
        # While the disk is busy, a server holds back what it writes to its append-only file for two seconds.
        await eventually(lambda: client.info("persistence")["aof_buffer_length"] == 0)
        server.kill()
        server.restart()
        assert client.xinfo_groups("tasks")[0]["name"] == b"agents"
        client.close()
        expected = {"redis": "Redis", "falkordb": "Redis 8.", "valkey": "Valkey 9."}[flavour]
        assert server.find_version().startswith(expected)
    assert not server.is_running()


async def test_private_postgres_is_another_server(own_stack: Stack) -> None:
    with own_stack.extra_postgres(settings={"max_connections": "20"}) as server:
        assert await rows(server.dsn(), "SHOW max_connections") == [("20",)]
    assert await rows(own_stack.postgres_dsn(), "SHOW max_connections") != [("20",)]


def test_state_folder_has_one_owner(own_stack: Stack) -> None:
    with pytest.raises(StateLockedError, match="in use by process"):
        Stack(own_stack.state_dir.root).start()
    assert own_stack.server("redis").is_running()


def test_attached_stack_has_the_same_addresses_and_harms_nobody(own_stack: Stack) -> None:
    with Stack.attach(own_stack.state_dir.root) as attached:
        assert _addresses(attached) == _addresses(own_stack)
        assert attached.server("redis").pid == own_stack.server("redis").pid
        with pytest.raises(NotOwnedError, match="extra_redis"):
            attached.server("redis").kill()
        with pytest.raises(NotRunningError, match="postgres"):
            attached.server("oracle")
    assert own_stack.server("redis").is_running(), "the end of an attached stack ends nothing"


def test_attached_stack_has_private_servers_of_its_own(own_stack: Stack) -> None:
    with Stack.attach(own_stack.state_dir.root) as attached:
        private = attached.extra_redis()
        assert private.url != attached.redis_url
        assert private.is_running()
    assert not private.is_running()


def test_control_of_an_attached_stack_pauses_and_resumes(own_stack: Stack) -> None:
    with Stack.attach(own_stack.state_dir.root, control=True) as attached:
        attached.server("redis").pause()
        assert not own_stack.server("redis").probe()
        attached.server("redis").resume()
        wait_until(own_stack.server("redis").probe, timeout_s=5, what="an answer of Redis")


def test_service_of_the_tests_gets_addresses_and_role(own_stack: Stack) -> None:
    relay = own_stack.service("outbox-relay", database="other", env={"FLOTILLA_LOG_LEVEL": "debug"})
    assert relay.env["FLOTILLA_POSTGRES_DSN"] == own_stack.postgres_dsn("other", "flotilla_relay")
    assert relay.env["FLOTILLA_KAFKA_BOOTSTRAP_SERVERS"] == own_stack.kafka_bootstrap
    assert relay.env["FLOTILLA_LOG_LEVEL"] == "debug"
    assert relay.env["FLOTILLA_METRICS_PORT"] == str(relay.ports["metrics"])


def _addresses(stack: RunningStack) -> dict[str, str]:
    return stack.environment()
