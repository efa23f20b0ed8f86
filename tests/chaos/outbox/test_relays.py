"""Three relays, killed and paused, Kafka and PostgreSQL killed and restarted, 16 writers of which 10% roll back."""

from pathlib import Path

import pytest

from flotilla_devstack import RunningStack
from tests.chaos.harness import Crew, Load, Plan, storm
from tests.chaos.harness.writers import plan


@pytest.mark.timeout(600)
async def test_a_short_storm_loses_and_reorders_nothing(stack: RunningStack, tmp_path: Path) -> None:
    """Relays and audit consumers alike are hit."""
    seed, over_s = 20, 14.0
    crew = Crew(relays=3, consumers=2)
    faults = Plan.drawn(seed, over_s=over_s, every_s=3.0, services=5, kafka_kills=1)
    verdict = await storm(stack, tmp_path, crew, seed=seed, load=Load(events=12_000, over_s=over_s), faults=faults)
    assert verdict.committed > 9_000
    assert verdict.holds(), verdict


@pytest.mark.chaos
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("seed", [1, 2])
async def test_a_long_storm_loses_and_reorders_nothing(stack: RunningStack, tmp_path: Path, seed: int) -> None:
    """A relay is hit every 5 s; the audit consumers live through what happens to the servers."""
    over_s = 120.0
    crew = Crew(relays=3, consumers=2)
    faults = Plan.drawn(seed, over_s=over_s, every_s=5.0, services=crew.relays)
    verdict = await storm(stack, tmp_path, crew, seed=seed, load=Load(events=200_000, over_s=over_s), faults=faults)
    assert verdict.committed > 170_000
    assert verdict.holds(), verdict
    assert verdict.duplicates > 0, "without a duplicate the storm shows nothing of dropping them"


def test_the_same_seed_draws_the_same_storm() -> None:
    drawn = [Plan.drawn(7, over_s=60, every_s=5, services=3) for _ in range(2)]
    assert drawn[0] == drawn[1] != Plan.drawn(8, over_s=60, every_s=5, services=3)
    load = Load(events=1000)
    assert plan(load, 7, 3) == plan(load, 7, 3) != plan(load, 8, 3)
    assert {fault.deed for fault in drawn[0].faults} == {"kill", "pause", "restart-kafka", "restart-postgres"}
