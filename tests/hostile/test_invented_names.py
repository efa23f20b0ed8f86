"""Names that somebody makes up: agents that the fleet does not have, and colleagues who are not asked."""

from collections.abc import Callable
from typing import Any, TypeAlias

import httpx
import pytest

from flotilla.bus import connect_redis
from flotilla.contracts.names import TASK_STREAM_PREFIX
from tests.hostile.shop import Shop
from tests.hostile.test_on_behalf_of import ECHO
from tests.integration.gateway.test_governed import vote
from tests.support.waiting import eventually

Door: TypeAlias = Callable[[str], tuple[str, dict[str, object]]]

# 15: tasks for agents that nobody runs -------------------------------------------------------------------------------

AGENTS = [
    "invented",
    "Research",
    "research ",
    " research",
    "research.",
    "research~1",
    "research:2",
    "research\x00",
    "research\u200b",
    "rese\u0430rch",
    "*",
    "../research",
    "",
    "r" * 64,
    "r" * 10_000,
]


async def task_streams(redis_url: str) -> set[bytes]:
    async with connect_redis(redis_url) as redis:
        return {key async for key in redis.scan_iter(match=f"{TASK_STREAM_PREFIX}*", count=1000)}


def tasks(agent: str) -> tuple[str, dict[str, object]]:
    return "/v1/tasks", {"steps": [agent], "input": {}}


def later_steps(agent: str) -> tuple[str, dict[str, object]]:
    return "/v1/tasks", {"steps": ["research", agent], "input": {}}


def questions(agent: str) -> tuple[str, dict[str, object]]:
    return "/v1/sessions/s/runs", {"query": "What is it?", "steps": ["research", agent]}


@pytest.mark.parametrize("door", [tasks, later_steps, questions])
async def test_no_task_goes_to_an_agent_that_the_fleet_does_not_have(shop: Shop, redis_url: str, door: Door) -> None:
    before = await task_streams(redis_url)
    for agent in AGENTS:
        path, body = door(agent)
        answer = await shop.alice.post(path, json=body)
        assert answer.status_code == 422, (agent, answer.text)
        assert len(answer.content) < 2_000, agent
    assert await task_streams(redis_url) == before
    assert await shop.gateway.rows("SELECT 1 FROM flotilla.runs") == []
    assert await shop.gateway.rows("SELECT 1 FROM flotilla.pipelines") == []


# 9: a second voter who is nobody ------------------------------------------------------------------------------------

HIDDEN = [
    " bob",
    "bob ",
    "bob\u200b",
    "b\u202eob",
    "bob\n",
    "bob\x00",
    "bo\u00adb",
    "e\u0301ve",
    "\u2066bob",
    "b" * 201,
]


async def key_for(admin: httpx.AsyncClient, name: str, *roles: str, person: bool = True) -> httpx.Response:
    return await admin.post("/v1/keys", json={"name": name, "roles": roles or ["approver"], "person": person})


async def test_no_key_has_a_name_that_looks_like_a_colleagues(shop: Shop) -> None:
    for name in HIDDEN:
        for person in (True, False):
            assert (await key_for(shop.root, name, person=person)).status_code == 422, ascii(name)
    for name in ("auth0|123", "eve@example.com", "\u00e9ve", "Mary Ann", "group/x"):
        assert (await key_for(shop.root, name)).status_code == 201, name


async def test_nobody_made_by_the_requester_decides_however_long_the_chain(working: Shop) -> None:
    gateway = working.gateway
    ada = await gateway.client_of("ada", "admin", "operator", "approver", person=True)
    bob = await gateway.client_of("bob", "approver", "admin", person=True)
    first = gateway.client((await key_for(ada, "first", "admin", "approver")).json()["key"])
    second = gateway.client((await key_for(first, "second", "admin", "approver")).json()["key"])
    third = gateway.client((await key_for(second, "third")).json()["key"])
    robot = gateway.client((await key_for(second, "robot", "approver", person=False)).json()["key"])
    action = (await ada.post("/v1/actions", json=ECHO)).json()

    async def waiting() -> dict[str, Any] | None:
        found = await ada.get(f"/v1/approvals/{action['action_id']}")
        return dict(found.json()) if found.status_code == 200 else None

    approval = await eventually(waiting, timeout_s=20)
    voters = {"ada": ada, "first": first, "second": second, "third": third, "robot": robot}
    refused = {name: (await vote(client, approval)).json().get("code") for name, client in voters.items()}
    assert refused == {**dict.fromkeys(voters, "self_approval"), "robot": "not_a_person"}
    # Bob's name stays his when his keys are gone.
    keys = (await ada.get("/v1/keys")).json()["keys"]
    assert (await vote(bob, approval)).is_success
    for key in keys:
        if key["name"] == "bob":
            await ada.delete(f"/v1/keys/{key['key_id']}")
    assert (await key_for(ada, "bob")).status_code == 403
    assert (await key_for(ada, "bob", person=False)).status_code == 403
