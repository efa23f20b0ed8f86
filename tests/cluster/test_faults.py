"""Pods that go away under load, by order and without notice: every run ends well, and nothing is lost."""

import time
from collections.abc import Callable

import pytest

from tests.cluster.conftest import Figures
from tests.cluster.fleet import RELEASE, Fleet
from tests.cluster.kubernetes import Object
from tests.cluster.promises import RATE, Load, check, finishings, slow_tasks, twice_in_kafka
from tests.e2e.test_one_question import HANDBOOK, upload
from tests.support.catalog import SERVICES
from tests.support.waiting import eventually

pytestmark = pytest.mark.full
SHRUNK = ("research-agent", "writer-agent", "outbox-relay", "audit-consumer", "workflow-worker")
SECONDS = 60
STEPS = 2
"""Tasks of a run: research, write."""
REPEATS_FOR_S = 120
"""How long a client repeats a request whose gateway was killed."""
_ATTEMPTS = "SELECT attempt, count(*) FROM flotilla.agent_tasks WHERE session_id LIKE $1 || '-%' GROUP BY attempt"


async def test_scaling_down_at_work_loses_and_repeats_nothing(
    fleet: Fleet, unique: Callable[[str], str], figures: Figures
) -> None:
    await _with_handbook(fleet)
    _scale(fleet, 3)
    await fleet.namespace.all_ready(600)
    twice = await twice_in_kafka(fleet)
    load = Load(fleet, unique("shrunk"), SECONDS)
    async with slow_tasks(fleet, 2):
        await load.start()
        started = time.monotonic()
        _scale(fleet, 1)
        await eventually(lambda: len(_pods(fleet)) == len(SHRUNK), timeout_s=300, every_s=1)
        figures.append(f"from 3 pods to 1 of {len(SHRUNK)} services at work: {time.monotonic() - started:.0f} s")
        said = await load.report()
        await check(fleet, load.batch, load.runs)

    assert said["failures"] == {}
    assert await twice_in_kafka(fleet) == twice
    async with fleet.database() as database:
        attempts = {row["attempt"]: row["count"] for row in await database.fetch(_ATTEMPTS, load.batch)}
    assert attempts == {1: STEPS * load.runs}
    assert await finishings(fleet) == STEPS * load.runs


async def test_every_service_killed_in_turn_loses_nothing(
    fleet: Fleet, unique: Callable[[str], str], figures: Figures
) -> None:
    await _with_handbook(fleet)
    load = Load(fleet, unique("killed"), SECONDS * 2, retry_s=REPEATS_FOR_S)
    async with slow_tasks(fleet, 1):
        await load.start()
        for service in SERVICES:
            started = time.monotonic()
            for pod in fleet.namespace.pods(service):
                fleet.namespace.killed(pod["metadata"]["name"])
            await fleet.namespace.all_ready(300)
            figures.append(f"{service} killed at {RATE:g} runs/s: ready again after {time.monotonic() - started:.0f} s")
        said = await load.report()
        took = await check(fleet, load.batch, load.runs)

    figures.append(f"six services killed: {load.runs} runs ended well, from the first to the last's end {took:.0f} s")
    assert said["failures"] == {}


async def _with_handbook(fleet: Fleet) -> None:
    with fleet.reached() as reached:
        async with reached.client() as client:
            await upload(client, "harbour.md", HANDBOOK)


def _pods(fleet: Fleet) -> list[Object]:
    """Those of the services that shrink; one that ends is among them until it is gone."""
    return [pod for service in SHRUNK for pod in fleet.namespace.pods(service)]


def _scale(fleet: Fleet, replicas: int) -> None:
    for service in SHRUNK:
        fleet.namespace.kubectl("scale", "deployment", f"{RELEASE}-{service}", f"--replicas={replicas}")
