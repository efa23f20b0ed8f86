"""Fixtures over the real servers. Every test gets names, a database or a Redis of its own.

One stack serves the whole run: that of FLOTILLA_TEST_STACK where one is up, else one that is started here. Parallel
test processes share it.
"""

import asyncio
import gc
import os
import secrets
import signal
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack
from functools import cache

import pytest
import structlog
from httpx._transports import default as httpx_transports
from httpx2._transports import default as httpx2_transports
from temporalio.client import Client
from xdist.remote import Producer

from flotilla.config import KafkaSettings
from flotilla.contracts.errors import RetryLater
from flotilla.postgres import Pool, connecting, open_pool
from flotilla_devstack import RunningStack, Stack, stack_for_tests
from flotilla_devstack.servers.kafka import KafkaServer
from flotilla_devstack.servers.postgres import PostgresServer
from flotilla_devstack.servers.redis import RedisServer
from flotilla_devstack.stack import ATTACH_VARIABLE
from flotilla_devstack.supervisor import OWNER_VARIABLE
from tests.support.postgres import Database, cloned, drop, make_template, with_database
from tests.support.properties import load_profile
from tests.support.scheduling import SHORTEST, SharedServers
from tests.support.scratch import scratch
from tests.support.session_events import topics_named
from tests.support.spare_redis import SpareServers
from tests.support.waiting import busyness, eventually

_shared = ExitStack()
# Each HTTP client would read the certificates of the machine again: 25 ms, thousands of times.
for transports in (httpx_transports, httpx2_transports):
    transports.create_ssl_context = cache(transports.create_ssl_context)  # type: ignore[attr-defined]
# For whom pytest is called without make, which does the same.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False
# Stacks that tests start by the command outlive it; they end with this process, however it ends.
os.environ[OWNER_VARIABLE] = str(os.getpid())
# Java's second compiler takes more time than it saves a Kafka that lives for seconds: half of that of its start.
os.environ.setdefault("JDK_JAVA_OPTIONS", "-XX:TieredStopAtLevel=1")
load_profile()
# Each test has a database of its own: hundreds are made and dropped, each with a checkpoint. Tests kill processes, not
# the machine, so what PostgreSQL gave to the kernel outlives them. Stacks that tests own, and `flotilla up`, do sync.
WITHOUT_SYNC = {"fsync": "off", "full_page_writes": "off"}
CONNECT_S = connecting.CONNECT_S


def pytest_configure() -> None:
    """Short tracebacks in logs: rendering local variables takes seconds, in which an event loop stands still.

    Ctrl-C reaches the commands that tests start, though a shell that runs the tests in its background ignores it.
    """
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.dev.ConsoleRenderer(colors=False, exception_formatter=structlog.dev.plain_traceback),
        ]
    )


def pytest_sessionstart(session: pytest.Session) -> None:
    """Before parallel test processes are made: starts the stack that they share, and gives them a folder."""
    if not getattr(session.config.option, "numprocesses", None):
        return
    folder = _shared.enter_context(scratch())
    if ATTACH_VARIABLE in os.environ:
        return
    _shared.enter_context(Stack(folder / "stack", postgres_settings=WITHOUT_SYNC))
    os.environ[ATTACH_VARIABLE] = str(folder / "stack")
    _shared.callback(os.environ.pop, ATTACH_VARIABLE)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """In parallel runs, tests of milliseconds come last: no process then ends long before the others."""
    if "PYTEST_XDIST_WORKER" in os.environ:
        items.sort(key=lambda item: item.nodeid.startswith(SHORTEST))


def pytest_collection_finish() -> None:
    """Thousands of collected tests are millions of objects that stay: each collection of garbage would look at them."""
    gc.collect()
    gc.freeze()


def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> SharedServers:
    """For runs with `--numprocesses`."""
    return SharedServers(config, log)


def pytest_sessionfinish() -> None:
    """Stops what `pytest_sessionstart` started."""
    _shared.close()


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup() -> None:
    """On a busy machine it takes seconds until a connection is there."""
    connecting.CONNECT_S = CONNECT_S * busyness()


@pytest.fixture(scope="session")
def stack() -> Iterator[RunningStack]:
    """The run's servers. `stack.extra_redis()` and the like start private ones that a test may harm."""
    with stack_for_tests(postgres_settings=WITHOUT_SYNC) as running:
        yield running


@pytest.fixture
def unique() -> Callable[[str], str]:
    """Makes names that no other test uses: `unique("orders")` gives `orders-3f9a1c2b`."""
    return lambda prefix: f"{prefix}-{secrets.token_hex(4)}"


@pytest.fixture(scope="session")
def database_template(stack: RunningStack) -> Iterator[str]:
    """A migrated database, made once per test process."""
    name = f"flotilla_template_{os.getpid()}_{secrets.token_hex(3)}"
    server = stack.postgres_dsn("postgres")
    asyncio.run(make_template(server, name))
    yield name
    asyncio.run(drop(server, name))


@pytest.fixture
async def database(stack: RunningStack, database_template: str) -> AsyncIterator[Database]:
    """A fresh, migrated database."""
    name = f"flotilla_test_{secrets.token_hex(6)}"
    async with cloned(stack.postgres_dsn("postgres"), database_template, name) as fresh:
        yield fresh


@pytest.fixture
async def pool(database: Database) -> AsyncIterator[Pool]:
    """A pool on the fresh database, as the application role."""
    async with open_pool(database.dsn(), application="test") as opened:
        yield opened


@pytest.fixture(scope="session")
def spare_redis(stack: RunningStack) -> Iterator[SpareServers]:
    """Servers for one test after the other."""
    spare = SpareServers(stack)
    yield spare
    spare.stop()


@pytest.fixture
def redis_server(spare_redis: SpareServers) -> Iterator[RedisServer]:
    """A Redis of this test's own, with an append-only file: it may be flushed, killed, paused, restarted."""
    with spare_redis.server() as server:
        yield server


@pytest.fixture
def redis_url(redis_server: RedisServer) -> str:
    """The URL of this test's own Redis."""
    return redis_server.url


@pytest.fixture
def kafka_bootstrap(stack: RunningStack) -> str:
    """The shared broker; make topics with unique names."""
    return stack.kafka_bootstrap


@pytest.fixture
def temporal_address(stack: RunningStack) -> str:
    """The shared Temporal server; use a unique task queue."""
    return stack.temporal_address


@pytest.fixture
async def temporal_client(temporal_address: str) -> Client:
    """A client of the shared Temporal server."""
    return await Client.connect(temporal_address)


@pytest.fixture(scope="module")
def own_kafka(stack: RunningStack) -> Iterator[KafkaServer]:
    """A Kafka that a module's tests may harm."""
    server = stack.extra_kafka()
    yield server
    server.stop()


@pytest.fixture(scope="module")
def own_postgres(stack: RunningStack) -> Iterator[PostgresServer]:
    """A PostgreSQL that a module's tests may harm."""
    server = stack.extra_postgres()
    yield server
    server.stop()


@pytest.fixture
async def harmed_kafka(own_kafka: KafkaServer, unique: Callable[[str], str]) -> KafkaSettings:
    """Two topics of this test's own on it."""

    async def made() -> KafkaSettings | None:
        try:
            return await topics_named(own_kafka.bootstrap_address, unique("events"))
        except RetryLater:
            return None  # woken from a pause, a broker registers again first

    return await eventually(made, timeout_s=30)


@pytest.fixture
async def harmed_database(own_postgres: PostgresServer, unique: Callable[[str], str]) -> Database:
    """A migrated database of this test's own on it."""
    name = unique("flotilla").replace("-", "_")
    await make_template(own_postgres.dsn(), name)
    return Database(with_database(own_postgres.dsn(), name))
