"""Replicated servers fail under load: nothing is lost, doubled or out of order, and the fleet recovers in time."""

import pytest

from tests.ha.harness.fleet import Fleet
from tests.ha.harness.judge import Verdict
from tests.ha.harness.scenario import Scenario, play
from tests.ha.scenarios import EACH_SERVER, FULL, SHORT

pytestmark = pytest.mark.timeout(600)


SETS = ((EACH_SERVER, pytest.mark.each_server), (SHORT, ()), (FULL, pytest.mark.full))


@pytest.mark.parametrize(
    "scenario",
    [pytest.param(scenario, id=scenario.name, marks=marks) for scenarios, marks in SETS for scenario in scenarios],
)
async def test_a_fault_loses_and_doubles_nothing_and_is_recovered_from(
    replicated_fleet: Fleet, scenario: Scenario, seed: int, table: list[Verdict]
) -> None:
    verdict = await play(replicated_fleet, scenario, seed=seed)
    table.append(verdict)
    assert verdict.problems() == []
    assert replicated_fleet.not_alive() == []
    # The work whose end is waited for takes its time without a fault, too.
    assert verdict.recovery_s <= scenario.within_s + verdict.calm_s, verdict.line()
