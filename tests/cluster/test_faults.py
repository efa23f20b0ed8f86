"""Pods of every service killed under load, one soon after the other: every run ends well, and nothing is lost."""

from collections.abc import Callable

import pytest

from tests.cluster.conftest import Figures
from tests.cluster.fleet import SERVICES, SMALL, Fleet
from tests.cluster.promises import Load, check, slow_tasks
from tests.e2e.test_one_question import HANDBOOK, upload

pytestmark = pytest.mark.full
OPTIONS = SMALL
SECONDS = 60
REPEATS_FOR_S = 120
"""How long a client repeats a request whose gateway was killed."""


async def test_every_service_killed_in_turn_loses_nothing(
    fleet: Fleet, unique: Callable[[str], str], figures: Figures
) -> None:
    await _with_handbook(fleet)
    load = Load(fleet, unique("killed"), SECONDS * 2, retry_s=REPEATS_FOR_S)
    async with slow_tasks(fleet, 1):
        await load.start()
        for service in SERVICES:
            for pod in fleet.namespace.pods(service):
                fleet.namespace.killed(pod["metadata"]["name"])
            await fleet.namespace.all_ready(300)
        said = await load.report()
        took = await check(fleet, load.batch, load.runs)

    figures.append(f"six services killed: {load.runs} runs ended well, from the first to the last's end {took:.0f} s")
    assert said["failures"] == {}


async def _with_handbook(fleet: Fleet) -> None:
    with fleet.reached() as reached:
        async with reached.client() as client:
            await upload(client, "harbour.md", HANDBOOK)
