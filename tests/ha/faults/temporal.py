"""What happens to Temporal's frontend."""

import asyncio
import random
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from tests.ha.harness.fleet import Fleet

FROZEN_S = 20.0
_STALLED_S = 10.0


@asynccontextmanager
async def restarted(fleet: Fleet, _draw: random.Random) -> AsyncIterator[float]:
    """A clean failover: stopped in order and started again; its history stays. Recovery counts from the stop."""
    began = time.monotonic()
    await asyncio.to_thread(fleet.servers.temporal.restart)
    yield began


@asynccontextmanager
async def killed(fleet: Fleet, _draw: random.Random) -> AsyncIterator[float]:
    """kill -9, and started again. Recovery counts from the kill."""
    temporal = fleet.servers.temporal
    began = time.monotonic()
    await asyncio.to_thread(temporal.kill)
    temporal.start()
    await asyncio.to_thread(temporal.wait_ready)
    yield began


@asynccontextmanager
async def node_gone(fleet: Fleet, _draw: random.Random) -> AsyncIterator[float]:
    """A silent death of the node that all connections lead to: they stay mute, and new ones reach another node."""
    began = time.monotonic()
    fleet.servers.to_temporal.strand()
    yield began


@asynccontextmanager
async def frozen(fleet: Fleet, _draw: random.Random) -> AsyncIterator[float]:
    """The only node freezes for 20 s. Recovery counts from its waking."""
    temporal = fleet.servers.temporal
    temporal.pause()
    try:
        await asyncio.sleep(FROZEN_S)
    finally:
        temporal.resume()
    yield time.monotonic()


@asynccontextmanager
async def answers_stalled(fleet: Fleet, _draw: random.Random) -> AsyncIterator[float]:
    """For 10 s requests arrive and answers do not. Recovery counts from then."""
    fleet.servers.to_temporal.stall("to_client")
    await asyncio.sleep(_STALLED_S)
    fleet.servers.to_temporal.heal()
    yield time.monotonic()
