"""What a service asks on behalf of a person, by workflow runs, OpenAI's API and agents, is theirs and names both."""

import json
from collections.abc import Callable
from typing import Any

import httpx
import pytest
from temporalio.client import Client

from flotilla.contracts.envelope import from_json
from flotilla.contracts.names import APPROVAL_WORKFLOW, action_workflow_id
from flotilla.contracts.requests import ActionRequest, WorkflowRequest
from gateway.auth.on_behalf import HEADER
from tests.hostile.shop import Shop, granted
from tests.integration.gateway.conftest import Replica
from tests.integration.gateway.test_governed import vote
from tests.integration.gateway.test_workflow_runs import publish
from tests.support.gateway import RunningGateway
from tests.support.waiting import eventually

DELEGATED = """
INSERT INTO flotilla.agent_tasks (tenant_id, task_id, agent, session_id, run_id, status, attempt)
VALUES ('acme', '{}', 'research', '{}', '{}', 'queued', 1)
"""
CHAT = {"model": "flotilla/rag", "messages": [{"role": "user", "content": "Who opens the gate?"}]}
RESPONSE = {"model": "flotilla/rag", "input": "Who opens the gate?", "background": True}


async def start_workflow(client: httpx.AsyncClient, session: str) -> httpx.Response:
    body = {"workflow": "brief", "input": {"topic": "harbours"}}
    return await client.post(f"/v1/sessions/{session}/runs", json=body)


async def start_response(client: httpx.AsyncClient, session: str | None, **more: Any) -> httpx.Response:
    headers = {"Flotilla-Session": session} if session else {}
    return await client.post("/openai/v1/responses", json={**RESPONSE, **more}, headers=headers)


async def names_in(client: httpx.AsyncClient, session: str) -> list[tuple[str, str, str]]:
    """Each change that the gateway recorded, with the person and the service that it names."""
    events = (await client.get(f"/v1/sessions/{session}/events")).json()["events"]
    made = [event["data"] for event in events if event["type"].endswith("state_change.v1")]
    return [
        (data["change"], data["details"].get("user_id") or data["details"]["by"], data["details"]["acted_by"])
        for data in made
    ]


async def test_a_workflow_run_is_the_persons_and_names_the_service(shop: Shop, unique: Callable[[str], str]) -> None:
    await publish(shop.gateway)
    session = unique("s")
    answer = await start_workflow(shop.acting("alice"), session)
    assert answer.status_code == 202, answer.text
    run_id = answer.json()["run_id"]
    run = (await shop.alice.get(f"/v1/runs/{run_id}")).json()
    assert (run["workflow"], run["user_id"], run["acted_by"]) == ("brief", "alice", "shop")
    owner = (await shop.alice.get(f"/v1/sessions/{session}/access")).json()["owner"]
    assert owner == {"kind": "user", "issuer": "flotilla", "name": "alice"}
    [row] = await shop.gateway.rows("SELECT request FROM flotilla.runs WHERE run_id = $1", run_id)
    request = from_json(row["request"], WorkflowRequest)
    assert (request.user_id, request.requested_by_service, request.requested_through) == (
        "alice",
        True,
        ["root", "shop"],
    )
    plain = (await granted(shop.root, "till", ["operator"])).json()["key"]
    for client in (shop.acting("bob"), shop.acting(key=plain), shop.acting("bob", key=plain)):
        for answer in (
            await client.get(f"/v1/runs/{run_id}"),
            await client.post(f"/v1/runs/{run_id}/events/go", json={"data": {}}),
            await client.post(f"/v1/runs/{run_id}/cancel"),
            await start_workflow(client, session),
        ):
            assert answer.status_code == 404, answer.text
    assert (await shop.acting("alice").post(f"/v1/runs/{run_id}/cancel")).status_code == 202
    assert await names_in(shop.alice, session) == [
        ("run_started", "alice", "shop"),
        ("run_cancel_requested", "alice", "shop"),
    ]


async def test_a_response_is_the_persons_and_names_the_service(shop: Shop, unique: Callable[[str], str]) -> None:
    session = unique("s")
    answer = await start_response(shop.acting("alice"), session)
    assert answer.status_code == 200, answer.text
    response_id, run_id = answer.json()["id"], answer.headers["Flotilla-Run"]
    path = f"/openai/v1/responses/{response_id}"
    assert (await shop.alice.get(path)).status_code == 200
    run = (await shop.alice.get(f"/v1/runs/{run_id}")).json()
    assert (run["user_id"], run["acted_by"], run["session_id"]) == ("alice", "shop", session)
    assert await names_in(shop.alice, session) == [("run_started", "alice", "shop")]
    plain = (await granted(shop.root, "till", ["operator"])).json()["key"]
    for client in (shop.acting("bob"), shop.acting(key=plain), shop.acting("bob", key=plain)):
        for answer in (
            await client.get(path),
            await client.get(f"{path}/input_items"),
            await client.post(f"{path}/cancel"),
            await start_response(client, session),
            await start_response(client, None, previous_response_id=response_id),
            await client.post("/openai/v1/chat/completions", json=CHAT, headers={"Flotilla-Session": session}),
        ):
            assert answer.status_code == 404, answer.text


async def test_one_persons_conversation_and_retries_are_not_continued_for_another(
    shop: Shop, unique: Callable[[str], str]
) -> None:
    key = {"Idempotency-Key": unique("key"), "X-Stainless-Retry-Count": "1"}
    clients = [shop.acting("alice"), shop.acting("bob"), shop.acting()]
    answers = [await client.post("/openai/v1/responses", json=RESPONSE, headers=key) for client in clients]
    assert len({answer.headers["Flotilla-Session"] for answer in answers}) == 3
    again = await clients[0].post("/openai/v1/responses", json=RESPONSE, headers=key)
    assert again.json()["id"] == answers[0].json()["id"]


@pytest.mark.parametrize("door", [start_workflow, start_response])
@pytest.mark.parametrize("limit", ["person", "service"])
async def test_limits_count_for_both_at_every_door(
    replica: Replica, unique: Callable[[str], str], door: Callable[..., Any], limit: str
) -> None:
    settings: dict[str, Any] = {f"open_runs_per_{limit}": 1}
    async with replica(**settings) as gateway:
        await publish(gateway)
        root = await gateway.client_of("root", "admin", person=True)
        key = (await granted(root, "shop", ["operator"])).json()["key"]

        def acting(subject: str) -> httpx.AsyncClient:
            client = gateway.client(key)
            client.headers[HEADER] = subject
            return client

        assert (await door(acting("alice"), unique("s"))).is_success
        same, other = await door(acting("alice"), unique("s")), await door(acting("bob"), unique("s"))
        assert same.status_code == 429
        assert f"FLOTILLA_OPEN_RUNS_PER_{limit.upper()}" in same.text
        assert (other.status_code == 429) == (limit == "service")


async def asked_by_an_agent(
    gateway: RunningGateway, client: Client, viewer: httpx.AsyncClient, run: dict[str, Any], person: str
) -> dict[str, Any]:
    """The approval of what an agent asks for in a run."""
    task_id = f"{run['run_id']}.research"
    action_id = f"{task_id}.a"
    await gateway.as_superuser(DELEGATED.format(task_id, run["session_id"], run["run_id"]))
    request = ActionRequest(
        action="research.pay",
        description="What the agent wants",
        risk_level="high",
        requested_by="/agents/research",
        on_behalf_of=person,
        args={"text": "pay"},
        action_id=action_id,
        tenant_id="acme",
        session_id=run["session_id"],
        run_id=run["run_id"],
        task_id=task_id,
    )
    queue = gateway.settings.task_queue
    await client.start_workflow(APPROVAL_WORKFLOW, request, id=action_workflow_id(action_id), task_queue=queue)

    async def waiting() -> dict[str, Any] | None:
        answer = await viewer.get(f"/v1/approvals/{action_id}")
        return json.loads(answer.text) if answer.status_code == 200 else None

    return await eventually(waiting, timeout_s=20)


@pytest.mark.parametrize("through", ["on behalf of alice", "its own name"])
async def test_who_made_the_key_does_not_approve_what_an_agent_asks_for_in_a_question_by_it(
    working: Shop, temporal_client: Client, unique: Callable[[str], str], through: str
) -> None:
    asks = working.acting("alice") if through == "on behalf of alice" else working.acting()
    run = (await working.ask(asks, unique("s"))).json()
    bob = await working.gateway.client_of("bob", "approver", person=True)
    root = await working.gateway.client_of("root", "admin", "approver", person=True)
    person = "alice" if through == "on behalf of alice" else "shop"
    approval = await asked_by_an_agent(working.gateway, temporal_client, bob, run, person)
    refused = await vote(root, approval)
    assert (refused.status_code, refused.json()["code"]) == (403, "self_approval")
    assert "root issued a key by which this action was asked for" in refused.json()["detail"]
    if person == "alice":
        assert (await vote(working.alice, approval)).json()["code"] == "self_approval"
    assert (await vote(bob, approval)).status_code == 200
