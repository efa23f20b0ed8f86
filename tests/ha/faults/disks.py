"""Disks that are full and emptied again."""

import asyncio
import random
import sys
import time
from collections.abc import AsyncIterator
from contextlib import AbstractContextManager, AsyncExitStack, asynccontextmanager

from flotilla.contracts.names import SESSION_EVENTS_TOPIC
from flotilla_devstack.servers.base import LocalServer
from tests.ha.harness.brokers import Broker
from tests.ha.harness.fleet import Fleet
from tests.ha.harness.small_disk import SmallDisk, small_disk

_FULL_S = 15.0


@asynccontextmanager
async def one_broker_full(fleet: Fleet, draw: random.Random) -> AsyncIterator[float]:
    """The broker fails, the others take over what it led."""
    broker = draw.choice(fleet.servers.brokers.nodes)
    async with _on_small_disk(fleet, broker) as disk:
        began = time.monotonic()
        await asyncio.to_thread(disk.fill)
        yield began
        await asyncio.sleep(max(0.0, began + _FULL_S - time.monotonic()))
        disk.empty()
        await _running(broker)
        await fleet.servers.brokers.whole(SESSION_EVENTS_TOPIC)


@asynccontextmanager
async def all_brokers_full(fleet: Fleet, _draw: random.Random) -> AsyncIterator[float]:
    """Nothing is acknowledged. Recovery counts from the moment when there is room and all run again."""
    async with AsyncExitStack() as stack:
        brokers = fleet.servers.brokers.nodes
        disks = [await stack.enter_async_context(_on_small_disk(fleet, broker)) for broker in brokers]
        for disk in disks:
            await asyncio.to_thread(disk.fill)
        await asyncio.sleep(_FULL_S)
        for disk in disks:
            disk.empty()
        await _running(*brokers)
        yield time.monotonic()
        await fleet.servers.brokers.whole(SESSION_EVENTS_TOPIC)


@asynccontextmanager
async def postgres_full(fleet: Fleet, _draw: random.Random) -> AsyncIterator[float]:
    """The primary's disk. Recovery counts from the moment when there is room and it runs again."""
    primary = fleet.servers.postgres.primary
    async with _moved(small_disk(primary, primary.data)) as disk:
        await asyncio.to_thread(primary.lead)
        await asyncio.to_thread(disk.fill)
        await asyncio.sleep(_FULL_S)
        disk.empty()
        await _running(primary)
        yield time.monotonic()
        await asyncio.to_thread(primary.lead)
    await asyncio.to_thread(primary.lead)


@asynccontextmanager
async def _on_small_disk(fleet: Fleet, broker: Broker) -> AsyncIterator[SmallDisk]:
    async with _moved(small_disk(broker, broker.folder / "data")) as disk:
        await fleet.servers.brokers.whole(SESSION_EVENTS_TOPIC)
        yield disk
    await fleet.servers.brokers.whole(SESSION_EVENTS_TOPIC)


@asynccontextmanager
async def _moved(moving: AbstractContextManager[SmallDisk]) -> AsyncIterator[SmallDisk]:
    """Enter and leave in a thread: a server is stopped and started meanwhile."""
    disk = await asyncio.to_thread(moving.__enter__)
    try:
        yield disk
    finally:
        await asyncio.to_thread(moving.__exit__, *sys.exc_info())


async def _running(*servers: LocalServer) -> None:
    """Start again what did not survive, as an operator does: all at once, since a broker alone has no quorum."""
    for server in servers:
        server.start()
    for server in servers:
        await asyncio.to_thread(server.wait_ready)
