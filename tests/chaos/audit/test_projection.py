"""Three audit consumers and a relay, killed and paused, their servers too, while writers write."""

from pathlib import Path

import pytest

from flotilla_devstack import RunningStack
from tests.chaos.harness import Crew, Load, Plan, storm


@pytest.mark.chaos
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("seed", [3, 4])
async def test_a_long_storm_leaves_exactly_what_was_committed(stack: RunningStack, tmp_path: Path, seed: int) -> None:
    over_s = 120.0
    crew = Crew(relays=1, consumers=3)
    faults = Plan.drawn(seed, over_s=over_s, every_s=5.0, services=4)
    verdict = await storm(stack, tmp_path, crew, seed=seed, load=Load(events=200_000, over_s=over_s), faults=faults)
    assert verdict.committed > 170_000
    assert verdict.holds(), verdict
