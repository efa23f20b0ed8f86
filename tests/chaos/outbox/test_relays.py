"""Three relays, killed and paused, Kafka and PostgreSQL killed and restarted, 16 writers of which 10% roll back."""

import pytest

from flotilla_devstack import RunningStack
from tests.chaos.harness import Load, Plan, Verdict, judge, open_world, torment, write
from tests.chaos.harness.writers import plan
from tests.support.session_events import read_topic


async def torment_relays(stack: RunningStack, seed: int, load: Load, faults: Plan) -> Verdict:
    async with open_world(stack) as world:
        world.run("outbox-relay", count=3)
        await world.ready()
        await torment(world, faults, write(world, load, seed))
        await world.outbox_drained()
        return judge(await world.committed(), await read_topic(world.kafka))


@pytest.mark.timeout(400)
async def test_a_short_storm_loses_and_reorders_nothing(stack: RunningStack) -> None:
    seed, over_s = 20, 14.0
    verdict = await torment_relays(
        stack,
        seed,
        Load(events=12_000, over_s=over_s),
        Plan.drawn(seed, over_s=over_s, every_s=3.0, services=3, kafka_kills=1),
    )
    assert verdict.committed > 9_000
    assert verdict.holds(), verdict


@pytest.mark.chaos
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("seed", [1, 2])
async def test_a_long_storm_loses_and_reorders_nothing(stack: RunningStack, seed: int) -> None:
    over_s = 120.0
    verdict = await torment_relays(
        stack, seed, Load(events=200_000, over_s=over_s), Plan.drawn(seed, over_s=over_s, every_s=5.0, services=3)
    )
    assert verdict.committed > 170_000
    assert verdict.holds(), verdict


def test_the_same_seed_draws_the_same_storm() -> None:
    drawn = [Plan.drawn(7, over_s=60, every_s=5, services=3) for _ in range(2)]
    assert drawn[0] == drawn[1] != Plan.drawn(8, over_s=60, every_s=5, services=3)
    load = Load(events=1000)
    assert plan(load, 7, 3) == plan(load, 7, 3) != plan(load, 8, 3)
    assert {fault.deed for fault in drawn[0].faults} == {"kill", "pause", "restart-kafka", "restart-postgres"}
