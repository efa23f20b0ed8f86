"""What happens to the services themselves."""

import random
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from flotilla_devstack.services import SERVICES
from tests.ha.harness.fleet import Fleet


@asynccontextmanager
async def out_of_memory(fleet: Fleet, draw: random.Random) -> AsyncIterator[float]:
    """Each service in turn reaches its memory limit. Recovery counts from when the last one is ready again."""
    for service in draw.sample(list(SERVICES), len(SERVICES)):
        await fleet.starve(service)
        await fleet.all_ready()
    yield time.monotonic()


@asynccontextmanager
async def one_killed(fleet: Fleet, draw: random.Random) -> AsyncIterator[float]:
    """kill -9 of one service. Recovery counts from the kill."""
    began = time.monotonic()
    await fleet.kill(draw.choice(list(SERVICES)))
    yield began
