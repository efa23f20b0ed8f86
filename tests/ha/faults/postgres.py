"""What happens to PostgreSQL's primary, and how its address follows the new one."""

import asyncio
import random
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from flotilla_devstack.services import SERVICES
from tests.ha.faults.failover import NOTICED_S, Failover
from tests.ha.harness.fleet import Fleet

FAILOVER = Failover(lambda fleet: fleet.servers.postgres, lambda fleet: fleet.servers.to_postgres, "postgres")
_AWAY_S = 10.0


@asynccontextmanager
async def switched_over(fleet: Fleet, _draw: random.Random) -> AsyncIterator[float]:
    """A clean failover: the primary is stopped in order, the standby promoted."""
    began = time.monotonic()
    await asyncio.to_thread(fleet.servers.postgres.primary.stop)
    await FAILOVER.promote(fleet)
    yield began
    await FAILOVER.rejoin(fleet)


@asynccontextmanager
async def primary_frozen(fleet: Fleet, _draw: random.Random) -> AsyncIterator[float]:
    """SIGSTOP: it wakes as a second primary that nobody's commit waits for, after the standby was promoted."""
    former = fleet.servers.postgres.primary
    began = time.monotonic()
    former.pause()
    await asyncio.sleep(NOTICED_S)
    await FAILOVER.promote(fleet)
    yield began
    former.resume()
    await asyncio.sleep(NOTICED_S)
    await FAILOVER.rejoin(fleet)


@asynccontextmanager
async def read_only(fleet: Fleet, _draw: random.Random) -> AsyncIterator[float]:
    """The address leads to the standby, which accepts no writes. Recovery counts from the moment when it is right."""
    servers = fleet.servers
    servers.to_postgres.flip(servers.postgres.standby.ports["postgres"])
    servers.to_postgres.cut()
    await asyncio.sleep(_AWAY_S)
    servers.to_postgres.flip(servers.postgres.primary.ports["postgres"])
    yield time.monotonic()


@asynccontextmanager
async def no_connections_left(fleet: Fleet, _draw: random.Random) -> AsyncIterator[float]:
    """Every role of the services is refused a connection. Recovery counts from the moment when it is not."""
    primary = fleet.servers.postgres.primary
    roles = sorted({spec.role for spec in SERVICES.values()})
    for role in roles:
        primary.query_as_superuser(f"ALTER ROLE {role} CONNECTION LIMIT 0")
    names = ", ".join(f"'{role}'" for role in roles)
    primary.query_as_superuser(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename IN ({names})")
    await asyncio.sleep(_AWAY_S)
    for role in roles:
        primary.query_as_superuser(f"ALTER ROLE {role} CONNECTION LIMIT -1")
    yield time.monotonic()


@asynccontextmanager
async def restarted(fleet: Fleet, _draw: random.Random) -> AsyncIterator[float]:
    """kill -9, and the same server started again. Recovery counts from then."""
    primary = fleet.servers.postgres.primary
    await asyncio.to_thread(primary.kill)
    primary.start()
    await asyncio.to_thread(primary.wait_ready)
    yield time.monotonic()
    await asyncio.to_thread(primary.lead)
