"""Events that trusted services append: denied by default, in their own name, in order, once."""

import asyncio
from typing import Any

import httpx
import pytest

from tests.support.gateway import RunningGateway

DECISION = {"kind": "state_change", "data": {"change": "supplier_chosen", "details": {"id": 7}}}


@pytest.fixture
async def service(gateway: RunningGateway) -> httpx.AsyncClient:
    """A service that may append as `planner`, with a session of its own."""
    admin = await gateway.client_of("root", "admin")
    body = {"name": "planner-job", "roles": ["operator"], "may_append_as": "planner"}
    made = (await admin.post("/v1/keys", json=body)).json()
    assert made["appends_as"] == "planner"
    client = gateway.client(made["key"])
    assert (await client.post("/v1/sessions", json={"session_id": "s"})).status_code == 201
    return client


async def append(client: httpx.AsyncClient, *events: Any, session: str = "s", **body: Any) -> httpx.Response:
    return await client.post(f"/v1/sessions/{session}/events", json={"events": events or [DECISION], **body})


async def log(client: httpx.AsyncClient) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = (await client.get("/v1/sessions/s/events")).json()["events"]
    return found


async def test_what_a_service_appends_is_in_the_history_in_its_name(service: httpx.AsyncClient) -> None:
    message = {"kind": "message", "data": {"role": "assistant", "content": "Chosen."}}
    answer = await append(service, DECISION, message, expected_seq=0)
    assert answer.status_code == 201, answer.text
    assert answer.json() == {"session_id": "s", "first_seq": 1, "last_seq": 2, "source": "/services/planner"}
    events = await log(service)
    assert [event["source"] for event in events] == ["/services/planner"] * 2
    assert events[0]["data"]["details"] == {"id": 7}
    stale = await append(service, DECISION, expected_seq=0)
    assert stale.status_code == 409
    assert len(await log(service)) == 2


async def test_without_the_right_nobody_appends(gateway: RunningGateway, operator: httpx.AsyncClient) -> None:
    await operator.post("/v1/sessions", json={"session_id": "s"})
    for client in (operator, await gateway.client_of("root", "admin"), await gateway.client_of("ci", "operator")):
        assert (await append(client)).status_code == 403
    assert await log(operator) == []
    admin = await gateway.client_of("root", "admin")
    person = {"name": "pia", "roles": ["operator"], "person": True, "may_append_as": "planner"}
    assert (await admin.post("/v1/keys", json=person)).status_code == 422
    for name in ("Planner", "../gateway", "a/b", ""):
        body = {"name": "x", "roles": ["operator"], "may_append_as": name}
        assert (await admin.post("/v1/keys", json=body)).status_code == 422


@pytest.mark.parametrize(
    ("event", "status"),
    [
        ({"kind": "state_change", "data": {"change": "run_finished", "details": {}}}, 403),
        ({"kind": "state_change", "data": {"change": "Approval_recorded", "details": {}}}, 403),
        ({"kind": "state_change", "data": {"change": "rolled_back", "details": {"to_seq": 0}}}, 403),
        ({"kind": "state_change", "data": {"change": "api_key_created", "details": {}}}, 403),
        ({"kind": "message", "data": {"role": "user", "content": "I approve."}}, 403),
        ({"kind": "message", "data": {"content": "no role"}}, 422),
        ({"kind": "order", "data": {}}, 422),
        ({"kind": "state_change", "data": {"change": "x", "details": {"text": "\x00"}}}, 422),
        ({**DECISION, "run_id": "somebody-elses"}, 422),
        ({**DECISION, "source": "/gateway"}, 422),
    ],
)
async def test_an_event_that_is_not_the_services_to_write_is_refused_with_all_others(
    service: httpx.AsyncClient, event: dict[str, Any], status: int
) -> None:
    answer = await append(service, DECISION, event)
    assert answer.status_code == status, answer.text
    assert await log(service) == []


async def test_a_repeated_request_appends_once(service: httpx.AsyncClient) -> None:
    headers = {"Idempotency-Key": "k1"}
    body = {"events": [DECISION]}
    answers = await asyncio.gather(
        *(service.post("/v1/sessions/s/events", json=body, headers=headers) for _ in range(5))
    )
    assert {answer.status_code for answer in answers} == {201}
    assert {answer.json()["first_seq"] for answer in answers} == {1}
    assert len(await log(service)) == 1


async def test_sessions_of_others_are_not_there(gateway: RunningGateway, service: httpx.AsyncClient) -> None:
    olga = await gateway.client_of("olga", "operator", person=True)
    await olga.post("/v1/sessions", json={"session_id": "private"})
    assert (await append(service, session="private")).status_code == 404
    assert (await append(service, session="flotilla:audit")).status_code in (403, 404)


async def test_an_event_may_belong_to_a_run_of_the_session(service: httpx.AsyncClient) -> None:
    run = (await service.post("/v1/sessions/s/runs", json={"query": "Who?"})).json()
    assert (await append(service, {**DECISION, "run_id": run["run_id"]})).status_code == 201
    assert (await log(service))[-1]["runid"] == run["run_id"]
