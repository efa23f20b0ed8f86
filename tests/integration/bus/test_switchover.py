"""A switchover of Redis with the old connections alive: clients follow the new primary."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from flotilla.bus import AWAY, DONE, Delivery, HandlerResult, Publisher, check_redis, connect_redis
from flotilla.bus.connection import execute_redis_command
from flotilla.contracts.errors import RetryLater
from flotilla_devstack import RunningStack
from flotilla_devstack.servers.redis import RedisServer
from tests.support.consumers import consuming, event
from tests.support.redis_cluster import redis_cluster
from tests.support.waiting import eventually


@dataclass
class Switch:
    """An address, as a service or a proxy gives it: new connections go to `port`, open ones stay where they are."""

    port: int
    own_port: int = 0
    passing: set["asyncio.Task[None]"] = field(default_factory=set)

    async def connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, out = await asyncio.open_connection("127.0.0.1", self.port)
        self.passing |= {asyncio.create_task(_pass(reader, out)), asyncio.create_task(_pass(there, writer))}

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.own_port}/0"


async def _pass(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while chunk := await reader.read(65536):
            writer.write(chunk)
            await writer.drain()
    finally:
        writer.close()


@pytest.fixture
def pair(stack: RunningStack) -> Iterator[tuple[RedisServer, RedisServer]]:
    first, second = stack.extra_redis(persistent=False), stack.extra_redis(persistent=False)
    yield first, second
    first.stop()
    second.stop()


@pytest.fixture
async def switch(pair: tuple[RedisServer, RedisServer]) -> AsyncIterator[Switch]:
    """The address of the first; the second is its replica."""
    made = Switch(pair[0].ports["redis"])
    server = await asyncio.start_server(made.connected, "127.0.0.1", 0)
    made.own_port = server.sockets[0].getsockname()[1]
    await replicate(pair[1], pair[0])
    yield made
    server.close()
    for task in made.passing:
        task.cancel()
    await asyncio.gather(*made.passing, return_exceptions=True)


async def replicate(replica: RedisServer, primary: RedisServer) -> None:
    async with connect_redis(replica.url) as client:
        await execute_redis_command(client, "REPLICAOF", "127.0.0.1", str(primary.ports["redis"]))

        async def follows() -> bool:
            return bool((await client.info("replication"))["master_link_status"] == "up")

        await eventually(follows, timeout_s=30)


async def switch_over(switch: Switch, pair: tuple[RedisServer, RedisServer]) -> None:
    old, new = pair
    async with connect_redis(new.url) as client:
        await execute_redis_command(client, "REPLICAOF", "NO", "ONE")
    switch.port = new.ports["redis"]
    await replicate(old, new)


async def test_writes_and_readiness_follow_the_primary(switch: Switch, pair: tuple[RedisServer, RedisServer]) -> None:
    async with connect_redis(switch.url) as client:
        await asyncio.gather(*(client.set(f"k{number}", 1) for number in range(8)))
        await check_redis(client)
        await switch_over(switch, pair)
        with pytest.raises(AWAY):
            await client.set("k", 2)
        await asyncio.gather(*(client.set(f"k{number}", 2) for number in range(8)))
        await check_redis(client)


async def test_readiness_sees_a_replica_and_leaves_it(switch: Switch, pair: tuple[RedisServer, RedisServer]) -> None:
    async with connect_redis(switch.url) as client:
        await check_redis(client)
        await switch_over(switch, pair)
        with pytest.raises(RetryLater, match="it is a replica"):
            await check_redis(client)
        await check_redis(client)


async def test_a_consumer_follows_the_primary(switch: Switch, pair: tuple[RedisServer, RedisServer]) -> None:
    seen: list[str] = []

    async def note(delivery: Delivery) -> HandlerResult:
        seen.append(delivery.event.subject)
        return DONE

    async with connect_redis(switch.url) as client, consuming(client, "s", note):
        await Publisher(client).publish("s", event("before"))
        await eventually(lambda: "before" in seen)
        await switch_over(switch, pair)
        async with connect_redis(pair[1].url) as direct:
            await Publisher(direct).publish("s", event("after"))
        await eventually(lambda: "after" in seen, timeout_s=20)


async def test_a_redis_cluster_is_refused(tmp_path: Path) -> None:
    async with redis_cluster(tmp_path) as url, connect_redis(url) as client:

        async def refused() -> str:
            try:
                await check_redis(client)
            except RetryLater as reason:
                return str(reason) if "Cluster" in str(reason) else ""
            return ""

        assert "use one primary with replicas" in str(await eventually(refused))
