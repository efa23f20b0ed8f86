"""A rolling upgrade to other images under load, and back: no failed request, no lost run, every approval still open."""

import os
import subprocess
from collections.abc import Callable

import httpx
import pytest

from tests.cluster.approvals import approve, key_of, parked
from tests.cluster.conftest import Figures
from tests.cluster.fleet import RELEASE, TAG, Fleet, empty
from tests.cluster.kubernetes import ROOT
from tests.cluster.promises import RATE, Load, check
from tests.e2e.test_one_question import HANDBOOK, upload
from tests.support.waiting import eventually

pytestmark = pytest.mark.full
NEXT_TAG = os.environ.get("NEXT_TAG", "") or f"{TAG}-next"
SECONDS = 60
APPROVALS = 20


@pytest.fixture(scope="module")
def next_images() -> None:
    """Images under another tag, in the cluster: built here, or those of NEXT_TAG, which are there."""
    if "NEXT_TAG" not in os.environ:
        environment = {**os.environ, "IMAGE_TAG": NEXT_TAG}
        for step in ("build", "load"):
            subprocess.run(["k8s/images", step], cwd=ROOT, env=environment, check=True, stdout=subprocess.DEVNULL)


async def test_upgrade_and_rollback_fail_no_request_and_lose_no_run_and_no_approval(
    fleet: Fleet, next_images: None, unique: Callable[[str], str], figures: Figures
) -> None:
    with fleet.reached() as reached:
        async with reached.client() as client:
            await upload(client, "harbour.md", HANDBOOK)
            actions = [await parked(client, f"Trial {number}") for number in range(APPROVALS)]
            bob = await key_of(client, unique("bob"))
    for change, decided in ((_upgraded, actions[::2]), (_rolled_back, actions[1::2])):
        load = Load(fleet, unique("load"), SECONDS)
        await load.start()
        change(fleet)
        await fleet.namespace.all_ready(600)
        said = await load.report()
        assert said["failures"] == {}
        took = await check(fleet, load.batch, load.runs)
        figures.append(
            f"{change.__name__} under {RATE:g} runs/s: {load.runs} runs, no failure, the last ended after {took:.0f} s"
        )
        with fleet.reached() as reached:
            async with reached.client(bob) as client:
                for action in decided:
                    await approve(client, action)
                assert [await _ended(client, action) for action in decided] == ["completed"] * len(decided)


async def test_uninstalling_after_upgrades_leaves_nothing(fleet: Fleet) -> None:
    fleet.namespace.helm("uninstall", RELEASE, "--wait")

    await empty(fleet.namespace)


def _upgraded(fleet: Fleet) -> None:
    fleet.upgrade(tag=NEXT_TAG)


def _rolled_back(fleet: Fleet) -> None:
    fleet.namespace.helm("rollback", RELEASE)


async def _ended(client: httpx.AsyncClient, action: str) -> str:
    async def over() -> str | None:
        found = (await client.get(f"/v1/actions/{action}")).json()
        return str(found["status"]) if found["finished_at"] else None

    return str(await eventually(over, timeout_s=120, every_s=0.5))
