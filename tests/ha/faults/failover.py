"""What happens to the primary of a pair, whichever server it is, and how its address follows the new one."""

import asyncio
import random
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

from tests.ha.harness.fleet import Fleet
from tests.ha.harness.postgres_pair import PostgresPair
from tests.ha.harness.proxy import Proxy
from tests.ha.harness.redis_pair import RedisPair

NOTICED_S = 2.0
"""From the fault to the promotion: how long it takes to notice."""


@dataclass(frozen=True)
class Failover:
    """Faults of one pair; `port` is the name of its servers' port."""

    pair: Callable[[Fleet], PostgresPair | RedisPair]
    proxy: Callable[[Fleet], Proxy]
    port: str

    async def promote(self, fleet: Fleet) -> None:
        """Promote the other server, and have the address lead to it."""
        primary = await asyncio.to_thread(self.pair(fleet).promote)
        self.proxy(fleet).flip(primary.ports[self.port])

    async def rejoin(self, fleet: Fleet) -> None:
        """Have the former primary follow the new one."""
        await asyncio.to_thread(self.pair(fleet).rejoin)

    @asynccontextmanager
    async def primary_killed(self, fleet: Fleet, _draw: random.Random) -> AsyncIterator[float]:
        """kill -9, and the other server promoted."""
        began = time.monotonic()
        await asyncio.to_thread(self.pair(fleet).primary.kill)
        await self.promote(fleet)
        yield began
        await self.rejoin(fleet)

    @asynccontextmanager
    async def silent_death(self, fleet: Fleet, _draw: random.Random) -> AsyncIterator[float]:
        """The primary's machine is gone without a word: old connections stay mute, also after the promotion."""
        began = time.monotonic()
        self.proxy(fleet).black_hole()
        await asyncio.sleep(NOTICED_S)
        await self.promote(fleet)
        self.proxy(fleet).strand()
        yield began
        await self.rejoin(fleet)
