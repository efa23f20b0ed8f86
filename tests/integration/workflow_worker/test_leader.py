"""One leader at a time; another one soon after it is gone."""

import asyncio
import time

import asyncpg
from prometheus_client import REGISTRY

from flotilla.postgres import Pool
from flotilla.runtime import Runtime
from tests.support.postgres import Database
from tests.support.waiting import eventually
from workflow_worker.duties import report_approval_gauges
from workflow_worker.leader import (
    LEADER_LEASE_S,
    LEASE_RENEWAL_INTERVAL_S,
    LeaderDuty,
    LeaderElection,
    make_repeating_duty,
)


def counting(counts: list[str], name: str) -> LeaderDuty:
    async def tick() -> None:
        counts.append(name)

    return make_repeating_duty(0.01, tick)


async def test_one_of_two_leads_and_the_other_follows_it(pool: Pool) -> None:
    counts: list[str] = []
    stops = {name: asyncio.Event() for name in ("a", "b")}
    leaders = {
        name: LeaderElection(pool, "lease", name, [counting(counts, name)], Runtime(name).supervisor) for name in stops
    }
    tasks = {name: asyncio.create_task(leaders[name].campaign_until(stops[name])) for name in stops}
    await eventually(lambda: counts)
    assert sorted(leader.is_leader for leader in leaders.values()) == [False, True]
    first = next(name for name, leader in leaders.items() if leader.is_leader)
    assert set(counts) == {first}
    other = "b" if first == "a" else "a"
    stops[first].set()
    await tasks[first]
    await eventually(lambda: leaders[other].is_leader, timeout_s=LEASE_RENEWAL_INTERVAL_S + 1)
    stops[other].set()
    await tasks[other]


async def test_a_leader_that_vanishes_is_replaced_when_its_lease_ends(pool: Pool) -> None:
    counts: list[str] = []
    gone = LeaderElection(pool, "lease", "gone", [counting(counts, "gone")], Runtime("gone").supervisor)
    task = asyncio.create_task(gone.campaign_until(asyncio.Event()))
    await eventually(lambda: gone.is_leader)
    await pool.execute("UPDATE flotilla_ops.leases SET owner = 'ghost' WHERE name = 'lease'")
    await eventually(lambda: not gone.is_leader, timeout_s=LEASE_RENEWAL_INTERVAL_S + 1)
    started = time.monotonic()
    await eventually(lambda: gone.is_leader, timeout_s=LEADER_LEASE_S + LEASE_RENEWAL_INTERVAL_S + 1)
    assert time.monotonic() - started > 1
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_a_duty_that_fails_is_done_again(pool: Pool) -> None:
    done = asyncio.Event()
    tries: list[int] = []

    async def fail_once() -> None:
        tries.append(len(tries))
        if len(tries) == 1:
            raise ValueError("not yet")
        done.set()

    stop = asyncio.Event()
    leader = LeaderElection(pool, "lease", "a", [make_repeating_duty(0.01, fail_once)], Runtime("a").supervisor)
    task = asyncio.create_task(leader.campaign_until(stop))
    async with asyncio.timeout(5):
        await done.wait()
    stop.set()
    await task


PARKED_ORDER = """
WITH session AS (
    INSERT INTO flotilla.sessions (tenant_id, session_id, user_id) VALUES ('default', 's1', 'alice')
)
INSERT INTO flotilla.orders (tenant_id, order_id, session_id, workflow_id, user_id, product_id, amount_minor, currency,
                             status, request)
VALUES ('default', 'o1', 's1', 'w1', 'alice', 'p1', 1250, 'EUR', 'compensation_failed', '{}')
"""


async def test_the_fleets_gauges_end_with_the_term_of_the_leader_that_showed_them(
    pool: Pool, database: Database
) -> None:
    connection = await asyncpg.connect(database.superuser_dsn)
    await connection.execute(PARKED_ORDER)
    await connection.close()
    over = asyncio.Event()
    term = asyncio.create_task(report_approval_gauges(pool)(over))
    await eventually(lambda: parked_compensations() == 1)
    over.set()
    await term
    assert parked_compensations() == 0


def parked_compensations() -> float | None:
    return REGISTRY.get_sample_value("flotilla_saga_parked_compensations")
