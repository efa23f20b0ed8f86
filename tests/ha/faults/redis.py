"""What happens to Redis, and how its address follows the new primary."""

import asyncio
import random
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from tests.ha.faults.failover import Failover
from tests.ha.harness.fleet import Fleet

FAILOVER = Failover(lambda fleet: fleet.servers.redis, lambda fleet: fleet.servers.to_redis, "redis")
TAIL_S = 4.0
HOLE_S = 20.0


@asynccontextmanager
async def switched_over(fleet: Fleet, _draw: random.Random) -> AsyncIterator[float]:
    """A clean failover: the replica is promoted and followed by the former primary, to which old connections lead."""
    began = time.monotonic()
    await FAILOVER.promote(fleet)
    await FAILOVER.rejoin(fleet)
    yield began


@asynccontextmanager
async def tail_lost(fleet: Fleet, _draw: random.Random) -> AsyncIterator[float]:
    """The replica that is promoted has nothing of the last 4 s."""
    pair = fleet.servers.redis
    await asyncio.to_thread(pair.separate)
    await asyncio.sleep(TAIL_S)
    began = time.monotonic()
    await asyncio.to_thread(pair.primary.kill)
    await FAILOVER.promote(fleet)
    yield began
    await FAILOVER.rejoin(fleet)


@asynccontextmanager
async def black_hole(fleet: Fleet, _draw: random.Random) -> AsyncIterator[float]:
    """Nothing passes for 20 s, in no direction. Recovery counts from then."""
    fleet.servers.to_redis.black_hole()
    await asyncio.sleep(HOLE_S)
    fleet.servers.to_redis.heal()
    yield time.monotonic()


@asynccontextmanager
async def answers_stalled(fleet: Fleet, _draw: random.Random) -> AsyncIterator[float]:
    """For 10 s requests arrive and answers do not: what was done is not known. Recovery counts from then."""
    fleet.servers.to_redis.stall("to_client")
    await asyncio.sleep(HOLE_S / 2)
    fleet.servers.to_redis.heal()
    yield time.monotonic()


@asynccontextmanager
async def restarted(fleet: Fleet, _draw: random.Random) -> AsyncIterator[float]:
    """kill -9, and the same server started again. Recovery counts from then."""
    primary = fleet.servers.redis.primary
    await asyncio.to_thread(primary.kill)
    primary.start()
    await asyncio.to_thread(primary.wait_ready)
    yield time.monotonic()
    await FAILOVER.rejoin(fleet)
