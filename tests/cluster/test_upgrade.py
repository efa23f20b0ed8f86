"""A rolling upgrade to other images under load, and back: no failed request, no lost run, every approval still open."""

import os
import subprocess
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from tests.cluster.conftest import Figures
from tests.cluster.fleet import RELEASE, SMALL, TAG, Fleet, empty
from tests.cluster.kubernetes import ROOT
from tests.cluster.promises import RATE, Load, check
from tests.e2e.test_one_question import HANDBOOK, upload
from tests.support.waiting import eventually

pytestmark = pytest.mark.full
NEXT_TAG = os.environ.get("NEXT_TAG", "") or f"{TAG}-next"
OPTIONS = SMALL
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
            parked = [await _parked(client, number) for number in range(APPROVALS)]
            bob = await _key_of(client, unique("bob"))
    for change, decided in ((_upgraded, parked[::2]), (_rolled_back, parked[1::2])):
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
                    await _approve(client, action)
                assert [await _ended(client, action) for action in decided] == ["completed"] * len(decided)


async def test_uninstalling_after_upgrades_leaves_nothing(fleet: Fleet) -> None:
    fleet.namespace.helm("uninstall", RELEASE, "--wait")

    await empty(fleet.namespace)


def _upgraded(fleet: Fleet) -> None:
    fleet.upgrade(tag=NEXT_TAG)


def _rolled_back(fleet: Fleet) -> None:
    fleet.namespace.helm("rollback", RELEASE)


async def _parked(client: httpx.AsyncClient, number: int) -> str:
    body = {"action": "echo", "description": f"Trial {number}", "risk_level": "high", "args": {"text": "hello"}}
    answer = await client.post("/v1/actions", json=body)
    assert answer.status_code == 202, answer.text
    action = str(answer.json()["action_id"])
    await _approval(client, action)
    return action


async def _approval(client: httpx.AsyncClient, action: str) -> dict[str, Any]:
    async def waiting() -> dict[str, Any] | None:
        found = await client.get(f"/v1/approvals/{action}")
        return found.json() if found.status_code == 200 else None

    approval: dict[str, Any] = await eventually(waiting, timeout_s=120, every_s=0.5)
    return approval


async def _key_of(client: httpx.AsyncClient, person: str) -> str:
    body = {"name": person, "roles": ["operator", "approver"], "person": True}
    answer = await client.post("/v1/keys", json=body)
    assert answer.status_code == 201, answer.text
    return str(answer.json()["key"])


async def _approve(client: httpx.AsyncClient, action: str) -> None:
    approval = await _approval(client, action)
    vote = {"decision": "approve", "content_hash": approval["content_hash"]}
    answer = await client.post(f"/v1/approvals/{action}/decision", json=vote)
    assert answer.status_code == 200, answer.text


async def _ended(client: httpx.AsyncClient, action: str) -> str:
    async def over() -> str | None:
        found = (await client.get(f"/v1/actions/{action}")).json()
        return str(found["status"]) if found["finished_at"] else None

    return str(await eventually(over, timeout_s=120, every_s=0.5))
