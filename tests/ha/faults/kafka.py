"""What happens to brokers."""

import asyncio
import random
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from flotilla.contracts.names import SESSION_EVENTS_PARTITIONS, SESSION_EVENTS_TOPIC
from tests.ha.harness.brokers import Broker
from tests.ha.harness.fleet import Fleet

FROZEN_S = 20.0
UNREACHABLE_S = 30.0
_NO_QUORUM_S = 10.0


@asynccontextmanager
async def leader_stopped(fleet: Fleet, draw: random.Random) -> AsyncIterator[float]:
    """A clean failover: the leader of a lane is stopped in order, and hands over what it leads."""
    broker = await _a_leader(fleet, draw)
    began = time.monotonic()
    await asyncio.to_thread(broker.stop)
    yield began
    await _back(fleet, broker)


@asynccontextmanager
async def leader_killed(fleet: Fleet, draw: random.Random) -> AsyncIterator[float]:
    """kill -9."""
    broker = await _a_leader(fleet, draw)
    began = time.monotonic()
    await asyncio.to_thread(broker.kill)
    yield began
    await _back(fleet, broker)


@asynccontextmanager
async def leader_frozen(fleet: Fleet, draw: random.Random) -> AsyncIterator[float]:
    """A silent death: connections stay open and nothing answers. It wakes after `FROZEN_S`, no longer a leader."""
    broker = await _a_leader(fleet, draw)
    began = time.monotonic()
    broker.pause()
    try:
        yield began
        await asyncio.sleep(max(0.0, began + FROZEN_S - time.monotonic()))
    finally:
        broker.resume()
    await fleet.servers.brokers.whole(SESSION_EVENTS_TOPIC)


@asynccontextmanager
async def leader_unreachable(fleet: Fleet, draw: random.Random) -> AsyncIterator[float]:
    """Services can't reach it while the other brokers can: it leads on, so its lanes wait. Recovery counts from its
    return."""
    broker = await _a_leader(fleet, draw)
    proxy = fleet.servers.brokers.proxy_of(broker)
    proxy.black_hole()
    await asyncio.sleep(UNREACHABLE_S)
    proxy.heal()
    yield time.monotonic()


@asynccontextmanager
async def rolling_restart(fleet: Fleet, draw: random.Random) -> AsyncIterator[float]:
    """One broker after the other, each once the one before is in sync again. Recovery counts from the last one."""
    brokers = fleet.servers.brokers
    for broker in draw.sample(brokers.nodes, len(brokers.nodes)):
        await asyncio.to_thread(broker.restart)
        await brokers.whole(SESSION_EVENTS_TOPIC)
    yield time.monotonic()


@asynccontextmanager
async def two_killed(fleet: Fleet, draw: random.Random) -> AsyncIterator[float]:
    """No quorum for 10 s: nothing can be acknowledged. Recovery counts from the moment when both are back."""
    dead = draw.sample(fleet.servers.brokers.nodes, 2)
    for broker in dead:
        await asyncio.to_thread(broker.kill)
    await asyncio.sleep(_NO_QUORUM_S)
    for broker in dead:
        broker.start()
    for broker in dead:
        await asyncio.to_thread(broker.wait_ready)
    yield time.monotonic()
    await fleet.servers.brokers.whole(SESSION_EVENTS_TOPIC)


@asynccontextmanager
async def slow_network(fleet: Fleet, draw: random.Random) -> AsyncIterator[float]:
    """100 ms for each round trip to every server, and 3 s for one chunk in a hundred."""
    servers = fleet.servers
    proxies = [*servers.brokers.proxies, servers.to_postgres, servers.to_redis, servers.to_temporal]
    for proxy in proxies:
        proxy.delay(0.05, stalls=0.01, stall_s=3, seed=draw.randrange(2**31))
    try:
        yield time.monotonic()
        await asyncio.sleep(FROZEN_S)
    finally:
        for proxy in proxies:
            proxy.heal()


async def _a_leader(fleet: Fleet, draw: random.Random) -> Broker:
    return await fleet.servers.brokers.leader_of(SESSION_EVENTS_TOPIC, draw.randrange(SESSION_EVENTS_PARTITIONS))


async def _back(fleet: Fleet, broker: Broker) -> None:
    broker.start()
    await asyncio.to_thread(broker.wait_ready)
    await fleet.servers.brokers.whole(SESSION_EVENTS_TOPIC)
