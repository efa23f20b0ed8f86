"""What a service asks on behalf of a person, done by a whole fleet: every record names both, to the end."""

import json
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any

import httpx
import pytest
from openai import AsyncOpenAI

from flotilla.contracts.identity import LOCAL_ISSUER, user_name
from gateway.auth.on_behalf import HEADER
from tests.e2e.fleet import Fleet, finished, session_events
from tests.e2e.stores import projected_events, query
from tests.support.waiting import eventually

QUESTION = {"query": "What do the documents say about every question?"}
NEVER = {"cron": ["0 0 29 2 *"]}
ALICE = user_name(LOCAL_ISSUER, "alice")


@dataclass(frozen=True)
class House:
    """A service that acts for others, its client in alice's name, and the people themselves."""

    service: str
    key: str
    for_alice: httpx.AsyncClient
    alice: httpx.AsyncClient
    bob: httpx.AsyncClient
    admin: httpx.AsyncClient


@pytest.fixture
async def house(llm_fleet: Fleet, unique: Callable[[str], str]) -> AsyncIterator[House]:
    name = unique("shop")
    async with llm_fleet.client("admin") as admin, llm_fleet.client("alice") as alice, llm_fleet.client("bob") as bob:
        body = {"name": name, "roles": ["operator"], "may_act_for_others": True}
        key = (await admin.post("/v1/keys", json=body)).raise_for_status().json()["key"]
        headers = {"Authorization": f"Bearer {key}", HEADER: "alice"}
        async with httpx.AsyncClient(base_url=alice.base_url, headers=headers, timeout=60) as for_alice:
            yield House(name, key, for_alice, alice, bob, admin)


async def start(house: House, session: str, **more: Any) -> str:
    body = {"workflow": "announce", "input": QUESTION, **more}
    answer = await house.for_alice.post(f"/v1/sessions/{session}/runs", json=body)
    assert answer.status_code == 202, answer.text
    return str(answer.json()["run_id"])


async def waiting_approval(house: House, run_id: str) -> dict[str, Any]:
    """What bob is asked to decide for a run."""

    async def found() -> dict[str, Any] | None:
        pending = (await house.bob.get("/v1/approvals", params={"status": "pending", "limit": 200})).json()
        return next((one for one in pending["approvals"] if one["run_id"] == run_id), None)

    approval: dict[str, Any] = await eventually(found, timeout_s=120, every_s=0.2)
    return approval


async def approve(client: httpx.AsyncClient, approval: dict[str, Any]) -> httpx.Response:
    body = {"decision": "approve", "reason": "read it", "content_hash": approval["content_hash"]}
    return await client.post(f"/v1/approvals/{approval['approval_id']}/decision", json=body)


def names_in(events: list[dict[str, Any]], change: str) -> list[tuple[str, str]]:
    """The person and the service that each event of that change names."""
    details = [event["data"]["details"] for event in events if event["data"].get("change") == change]
    return [
        (one.get("user_id") or one.get("on_behalf_of") or one["by"], one.get("acted_by") or one["requested_by"])
        for one in details
    ]


async def who_counts(fleet: Fleet, run_id: str) -> tuple[str, str]:
    """The person and the service against whose limits the run counts."""
    [row] = await query(fleet, "SELECT person, service FROM flotilla.runs WHERE run_id = $1", run_id)
    return row["person"], row["service"]


async def used(fleet: Fleet) -> dict[str, int]:
    """The tokens of today, by who asked."""
    rows = await query(fleet, "SELECT scope, used FROM flotilla.token_budgets WHERE scope ~ '^(person|service):'")
    return {":".join(row["scope"].split(":", 2)[::2]): row["used"] for row in rows}


async def test_a_workflow_is_done_in_two_names_from_the_request_to_the_result(
    llm_fleet: Fleet, house: House, unique: Callable[[str], str]
) -> None:
    session, both = unique("s"), ("alice", house.service)
    run_id = await start(house, session)
    approval = await waiting_approval(house, run_id)
    assert (approval["on_behalf_of"], approval["requested_by"]) == both
    assert await who_counts(llm_fleet, run_id) == (ALICE, house.service)
    # Neither she nor the service votes, nor anybody through it.
    assert (await approve(house.alice, approval)).json()["code"] == "self_approval"
    assert (await approve(house.for_alice, approval)).status_code == 403
    assert (await approve(house.bob, approval)).is_success
    run = await finished(house.alice, run_id)
    assert (run["status"], run["user_id"], run["acted_by"]) == ("success", *both), run
    assert run["output"]["published_as"] == approval["approval_id"]
    action = (await house.alice.get(f"/v1/actions/{approval['approval_id']}")).json()
    assert (action["status"], action["on_behalf_of"], action["requested_by"]) == ("completed", *both)
    events = await session_events(house.alice, session)
    assert [event["sequence"] for event in events] == list(range(1, len(events) + 1))
    assert {change: names_in(events, change) for change in ("run_started", "action_submitted")} == {
        "run_started": [both],
        "action_submitted": [both],
    }

    async def projected() -> bool:
        return len(await projected_events(llm_fleet, session)) == len(events)

    await eventually(projected, timeout_s=60, every_s=0.2)
    exported = (await house.alice.get("/v1/audit/export", params={"session_id": session})).text
    lines = [json.loads(line) for line in exported.splitlines()]
    assert sum(house.service in json.dumps(line) for line in lines) >= 2
    for by, name in (("person", ALICE), ("service", house.service), ("run", run_id)):
        spent = (await house.alice.get("/v1/spend", params={"by": by, "run_id": run_id})).json()["spend"]
        assert [one["name"] for one in spent] == [name], by
        assert float(spent[0]["amount"]) > 0
    tokens = await used(llm_fleet)
    assert tokens[f"person:{ALICE}"] >= tokens[f"service:{house.service}"] > 0


async def test_runs_that_wait_or_are_scheduled_are_done_in_two_names(
    llm_fleet: Fleet, house: House, unique: Callable[[str], str]
) -> None:
    session, schedule, both = unique("s"), unique("daily"), ("alice", house.service)
    first = await start(house, session)
    first_approval = await waiting_approval(house, first)
    second = await start(house, session, if_active="enqueue")
    body = {"workflow": "announce", "input": QUESTION, "session_id": session, "schedule_id": schedule, **NEVER}
    made = await house.for_alice.post("/v1/schedules", json=body)
    assert (made.json()["made_by"], made.json()["acted_by"]) == both, made.text
    assert (await house.for_alice.post(f"/v1/schedules/{schedule}/trigger")).status_code == 202

    async def fired() -> str | None:
        runs = (await house.alice.get("/v1/runs", params={"schedule_id": schedule})).json()["runs"]
        return runs[0]["run_id"] if runs else None

    third = str(await eventually(fired, timeout_s=60))
    for run_id in (first, second, third):
        approval = first_approval if run_id == first else await waiting_approval(house, run_id)
        assert (approval["on_behalf_of"], approval["requested_by"]) == both
        assert (await approve(house.alice, approval)).json()["code"] == "self_approval"
        assert (await approve(house.bob, approval)).is_success
        run = await finished(house.alice, run_id)
        assert (run["status"], run["user_id"], run["acted_by"]) == ("success", *both), run
        assert await who_counts(llm_fleet, run_id) == (ALICE, house.service)
        spent = (await house.alice.get("/v1/spend", params={"by": "service", "run_id": run_id})).json()["spend"]
        assert [one["name"] for one in spent] == [house.service]
    events = await session_events(house.alice, session)
    assert names_in(events, "run_queued") == [both] * 2
    assert names_in(events, "run_started") == [both] * 3
    assert names_in(events, "action_submitted") == [both] * 3


async def test_an_answer_by_openais_api_is_the_persons_and_paid_in_two_names(llm_fleet: Fleet, house: House) -> None:
    url = f"{llm_fleet.status()['url']}/openai/v1"
    async with AsyncOpenAI(base_url=url, api_key=house.key, default_headers={HEADER: "alice"}, timeout=120) as client:
        response = await client.responses.create(model="flotilla/rag", input=QUESTION["query"])
        again = await client.responses.create(
            model="flotilla/rag", input="And what else?", previous_response_id=response.id
        )
    runs = (await house.alice.get("/v1/runs", params={"user_id": "alice", "limit": 200})).json()["runs"]
    mine = [run for run in runs if run["acted_by"] == house.service]
    assert [(run["status"], run["session_id"]) for run in mine] == [("success", mine[0]["session_id"])] * 2
    assert again.output_text
    for run in mine:
        spent = (await house.alice.get("/v1/spend", params={"by": "service", "run_id": run["run_id"]})).json()["spend"]
        assert [one["name"] for one in spent] == [house.service]
        assert await who_counts(llm_fleet, run["run_id"]) == (ALICE, house.service)
    events = await session_events(house.alice, mine[0]["session_id"])
    assert names_in(events, "run_started") == [("alice", house.service)] * 2
    # Neither the service in its own name nor bob sees anything of it.
    path = f"/v1/runs/{mine[0]['run_id']}"
    assert (await house.bob.get(path)).status_code == 404
    assert (await house.for_alice.get(path, headers={HEADER: "bob"})).status_code == 404
    async with httpx.AsyncClient(base_url=house.alice.base_url, timeout=60) as plain:
        assert (await plain.get(path, headers={"Authorization": f"Bearer {house.key}"})).status_code == 404
