"""Lanes: fair shares, takeover of the dead, hand-back by the living."""

import time

import pytest

from flotilla.postgres import Connection, Pool
from outbox_relay.leases import LANE_LEASE_S, LEASE_RENEWAL_INTERVAL_S, LaneLeases
from tests.support.waiting import busyness, eventually

ALL = frozenset(range(12))


@pytest.fixture
def first(relay_pool: Pool) -> LaneLeases:
    return LaneLeases(relay_pool, "first")


@pytest.fixture
def second(relay_pool: Pool) -> LaneLeases:
    return LaneLeases(relay_pool, "second")


async def test_a_lone_relay_takes_every_lane_at_once(first: LaneLeases) -> None:
    await first.renew_leases()
    assert first.owned == ALL


async def test_a_newcomer_gets_half_and_no_lane_has_two_owners(first: LaneLeases, second: LaneLeases) -> None:
    await first.renew_leases()
    await second.renew_leases()
    assert second.owned == frozenset()
    await first.renew_leases()
    await second.renew_leases()
    assert (len(first.owned), len(second.owned)) == (6, 6)
    assert first.owned | second.owned == ALL


async def test_lanes_stay_where_they_are_while_nobody_comes_or_goes(first: LaneLeases, second: LaneLeases) -> None:
    for relay in (first, second, first, second):
        await relay.renew_leases()
    before = (first.owned, second.owned)
    for relay in (second, first, second, first):
        await relay.renew_leases()
    assert (first.owned, second.owned) == before


async def test_a_lane_with_batches_under_way_is_handed_back_later(first: LaneLeases, second: LaneLeases) -> None:
    await first.renew_leases()
    await second.renew_leases()
    await first.renew_leases(busy=ALL)
    assert first.owned == ALL
    await first.renew_leases()
    assert len(first.owned) == 6


async def test_a_relay_that_leaves_is_succeeded_at_once(first: LaneLeases, second: LaneLeases) -> None:
    await first.renew_leases()
    await first.release_all_lanes()
    await second.renew_leases()
    assert (first.owned, second.owned) == (frozenset(), ALL)


async def test_lanes_of_a_dead_relay_are_taken_within_seven_seconds(first: LaneLeases, second: LaneLeases) -> None:
    await first.renew_leases()
    died_at = time.monotonic()

    async def taken_over() -> bool:
        await second.renew_leases()
        return second.owned == ALL

    await eventually(
        taken_over, timeout_s=LANE_LEASE_S + 2 * LEASE_RENEWAL_INTERVAL_S, every_s=LEASE_RENEWAL_INTERVAL_S
    )
    assert time.monotonic() - died_at < 7.0 * busyness()


async def test_a_lease_that_holds_is_not_taken(first: LaneLeases, second: LaneLeases, superuser: Connection) -> None:
    await first.renew_leases()
    await superuser.execute("DELETE FROM flotilla_ops.leases WHERE name = 'outbox.relay.first'")
    await second.renew_leases()
    assert second.owned == frozenset()


async def test_a_woken_relay_learns_that_it_lost_its_lanes(
    first: LaneLeases, second: LaneLeases, superuser: Connection
) -> None:
    await first.renew_leases()
    await superuser.execute("UPDATE flotilla_ops.leases SET expires_at = clock_timestamp() - interval '1 s'")
    await second.renew_leases()
    assert second.owned == ALL
    await first.renew_leases()
    assert first.owned == frozenset()


async def test_each_takeover_raises_the_epoch(first: LaneLeases, second: LaneLeases, superuser: Connection) -> None:
    async def epoch() -> int:
        return int(await superuser.fetchval("SELECT epoch FROM flotilla_ops.leases WHERE name = 'outbox.lane.00'"))

    await first.renew_leases()
    before = await epoch()
    await first.renew_leases()
    assert await epoch() == before
    await first.release_all_lanes()
    await second.renew_leases()
    assert await epoch() == before + 1


async def test_thirteen_relays_share_twelve_lanes(relay_pool: Pool) -> None:
    relays = [LaneLeases(relay_pool, f"relay-{number:02d}") for number in range(13)]
    for _ in range(2):
        for relay in relays:
            await relay.renew_leases()
    assert sorted(len(relay.owned) for relay in relays) == [0] + [1] * 12
    assert frozenset().union(*(relay.owned for relay in relays)) == ALL


async def test_relays_that_died_long_ago_are_forgotten(
    first: LaneLeases, second: LaneLeases, superuser: Connection
) -> None:
    await first.renew_leases()
    await superuser.execute("UPDATE flotilla_ops.leases SET expires_at = clock_timestamp() - interval '2 min'")
    await second.renew_leases()
    names = await superuser.fetch("SELECT name FROM flotilla_ops.leases WHERE name LIKE 'outbox.relay.%'")
    assert [row["name"] for row in names] == ["outbox.relay.second"]
