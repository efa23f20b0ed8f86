"""One gateway for the whole module: thousands of requests need no fresh database each."""

import asyncio
import os
import secrets
import threading
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from flotilla_devstack import RunningStack
from tests.support.gateway import make_topics, running_gateway
from tests.support.postgres import cloned


@dataclass(frozen=True)
class Target:
    """Where the gateway is, and a key for every role at once."""

    url: str
    key: str


@pytest.fixture(scope="module")
def target(stack: RunningStack, database_template: str) -> Iterator[Target]:
    """A gateway in a thread of its own, since the requests come from synchronous code."""
    redis = stack.extra_redis(persistent=True)
    started = threading.Event()
    found: list[Target] = []
    failures: list[BaseException] = []
    loop = asyncio.new_event_loop()
    stop = asyncio.Event()

    async def serve() -> None:
        name = f"flotilla_test_{os.getpid()}_{secrets.token_hex(4)}"
        async with (
            cloned(stack.postgres_dsn("postgres"), database_template, name) as database,
            running_gateway(
                database=database,
                redis_url=redis.url,
                kafka_bootstrap=stack.kafka_bootstrap,
                temporal_address=stack.temporal_address,
                task_queue=name,
                requests_per_s=1e6,
                request_burst=1_000_000,
                requests_per_s_per_person=1e6,
                request_burst_per_person=1_000_000,
                open_runs_per_person=1_000_000,
                failed_logins_per_minute=1e6,
                **await make_topics(stack.kafka_bootstrap),
            ) as gateway,
        ):
            roles = ("viewer", "operator", "approver", "admin")
            found.append(Target(gateway.url, await gateway.key("tester", roles, person=True)))
            started.set()
            await stop.wait()

    def run() -> None:
        try:
            loop.run_until_complete(serve())
        except BaseException as error:  # noqa: BLE001 - told to the test that waits
            failures.append(error)
        finally:
            started.set()
            loop.close()

    thread = threading.Thread(target=run, name="gateway")
    thread.start()
    started.wait(60)
    try:
        assert found, failures
        yield found[0]
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join(30)
        redis.stop()
