"""Tasks and actions: listed, followed and called off."""

import asyncio
import json
from collections.abc import Callable
from typing import Any

import asyncpg
import httpx
import pytest

from flotilla.contracts.requests import RAGRequest
from tests.integration.gateway.conftest import Gate, answering
from tests.support.gateway import RunningGateway
from tests.support.waiting import eventually
from tests.support.worker import RunningWorker

STEPS = {"steps": ["research", "write"], "input": {"query": "Who?"}}


async def submit(client: httpx.AsyncClient, **body: Any) -> str:
    answer = await client.post("/v1/tasks", json={**STEPS, **body})
    assert answer.status_code == 202, answer.text
    task_id: str = answer.json()["task_id"]
    return task_id


async def reached(client: httpx.AsyncClient, path: str, *statuses: str) -> dict[str, Any]:
    async def has() -> dict[str, Any] | None:
        found: dict[str, Any] = (await client.get(path)).json()
        return found if found.get("status") in statuses else None

    return await eventually(has, timeout_s=30, every_s=0.1)


async def listed(client: httpx.AsyncClient, **only: str) -> list[str]:
    answer = await client.get("/v1/tasks", params=only)
    assert answer.status_code == 200, answer.text
    return [task["task_id"] for task in answer.json()["tasks"]]


async def test_tasks_are_listed_and_filtered(gateway: RunningGateway, operator: httpx.AsyncClient) -> None:
    other = await gateway.client_of("root", "admin")
    first = await submit(operator, session_id="a")
    second = await submit(operator, session_id="b", steps=["research"])
    third = await submit(other)
    assert await listed(other) == [third, second, first]
    assert await listed(operator) == [second, first]
    assert await listed(other, session_id="a") == [first]
    assert await listed(other, user_id="root") == [third]
    assert await listed(other, agent="write") == [third, first]
    assert await listed(other, status="success") == []
    created = (await other.get(f"/v1/tasks/{second}")).json()["created_at"]
    assert await listed(other, created_before=created) == [first]
    assert await listed(other, created_after=created) == [third, second]
    page = (await other.get("/v1/tasks", params={"limit": 2})).json()
    rest = (await other.get("/v1/tasks", params={"limit": 2, "cursor": page["next_cursor"]})).json()
    assert [task["task_id"] for task in rest["tasks"]] == [first]


async def test_a_look_at_a_task_waits_for_its_end(
    operator: httpx.AsyncClient, worker: RunningWorker, gate: Gate
) -> None:
    task_id = await submit(operator)
    short = await operator.get(f"/v1/tasks/{task_id}", params={"wait_s": 0.2})
    assert short.json()["finished_at"] is None
    waiting = asyncio.create_task(operator.get(f"/v1/tasks/{task_id}", params={"wait_s": 30}))
    gate.is_open.set()
    assert (await waiting).json()["status"] == "success"


async def test_a_task_under_way_is_cancelled(operator: httpx.AsyncClient, worker: RunningWorker, gate: Gate) -> None:
    task_id = await submit(operator)
    await reached(operator, f"/v1/tasks/{task_id}", "running")
    assert (await operator.post(f"/v1/tasks/{task_id}/cancel")).status_code == 202
    ended = await reached(operator, f"/v1/tasks/{task_id}", "cancelled")
    assert ended["finished_at"] is not None
    again = await operator.post(f"/v1/tasks/{task_id}/cancel")
    assert (again.status_code, again.json()["status"]) == (202, "cancelled")
    gate.is_open.set()
    done = await submit(operator)
    await reached(operator, f"/v1/tasks/{done}", "success")
    assert (await operator.post(f"/v1/tasks/{done}/cancel")).status_code == 409


async def test_a_task_that_no_worker_has_begun_is_cancelled(
    operator: httpx.AsyncClient, gateway: RunningGateway, redis_url: str, temporal_address: str, gate: Gate
) -> None:
    gate.is_open.set()
    task_id = await submit(operator)
    assert (await operator.post(f"/v1/tasks/{task_id}/cancel")).status_code == 202
    async with answering(gateway, redis_url, temporal_address, gate):
        await reached(operator, f"/v1/tasks/{task_id}", "cancelled")


async def follow(
    client: httpx.AsyncClient, task_id: str, after: str | None = None, began: asyncio.Event | None = None
) -> list[tuple[str, str, Any]]:
    """The stream's events until it ends: name, id, data. `began` is set by the first one."""
    headers = {"Last-Event-ID": after} if after else {}
    found, fields = [], dict[str, str]()
    async with client.stream("GET", f"/v1/tasks/{task_id}/events", headers=headers) as answer:
        assert answer.status_code == 200
        async for line in answer.aiter_lines():
            name, _, value = line.partition(": ")
            if line:
                fields[name] = value
            elif "event" in fields:
                found.append((fields["event"], fields["id"], json.loads(fields["data"])))
                fields = {}
                if began is not None:
                    began.set()
    return found


async def test_a_task_is_followed_to_its_end_and_again_from_any_event(
    operator: httpx.AsyncClient, worker: RunningWorker, gate: Gate
) -> None:
    gate.is_open.set()
    other = await submit(operator, session_id="s")
    task_id = await submit(operator, session_id="s")
    followed = await asyncio.wait_for(follow(operator, task_id), 40)
    assert followed[-1][0] == "done"
    assert followed[-1][2] == {"status": "success"}
    changes = [data["data"].get("change") for kind, _, data in followed if kind == "session_event"]
    assert changes[0] == "task_submitted"
    about = json.dumps([data for _, _, data in followed])
    assert task_id in about
    assert other not in about
    rest = await asyncio.wait_for(follow(operator, task_id, after=followed[0][1]), 20)
    assert rest == followed[1:]


async def test_the_stream_ends_with_what_the_log_says_of_the_end(
    gateway: RunningGateway, operator: httpx.AsyncClient, worker: RunningWorker, gate: Gate
) -> None:
    task_id = await submit(operator, steps=["research"])

    async def is_begun() -> bool:
        return bool(await gateway.rows("SELECT 1 FROM flotilla.delegations WHERE task_id = $1", task_id))

    await eventually(is_begun, timeout_s=30)
    connection = await asyncpg.connect(gateway.database.superuser_dsn)
    try:
        closing = connection.transaction()
        await closing.start()
        await connection.execute("SELECT FROM flotilla.pipelines WHERE task_id = $1 FOR UPDATE", task_id)
        gate.is_open.set()
        await reached(operator, f"/v1/tasks/{task_id}", "success")
        began = asyncio.Event()
        following = asyncio.create_task(follow(operator, task_id, began=began))
        await began.wait()
        await closing.rollback()
    finally:
        await connection.close()
    followed = await asyncio.wait_for(following, 40)
    assert followed[-1][0] == "done"
    assert followed[-2][2]["data"]["change"] == "task_finished"


@pytest.mark.parametrize("after", ["x", "-1", "1;2", "9" * 30])
async def test_a_position_that_no_event_has_is_refused(operator: httpx.AsyncClient, after: str) -> None:
    task_id = await submit(operator)
    answer = await operator.get(f"/v1/tasks/{task_id}/events", headers={"Last-Event-ID": after})
    assert answer.status_code == 422


async def test_tasks_of_another_tenant_are_not_there(gateway: RunningGateway, operator: httpx.AsyncClient) -> None:
    task_id = await submit(operator)
    other = await gateway.client_of("otto", "operator", tenant="globex", person=True)
    assert await listed(other) == []
    for answer in (
        await other.post(f"/v1/tasks/{task_id}/cancel"),
        await other.get(f"/v1/tasks/{task_id}/events"),
    ):
        assert answer.status_code == 404


async def test_an_action_that_waits_is_called_off(
    gateway: RunningGateway, operator: httpx.AsyncClient, worker: RunningWorker
) -> None:
    body = {
        "action": "http_request",
        "description": "x",
        "risk_level": "high",
        "args": {"method": "GET", "url": "https://a.example"},
    }
    action_id = (await operator.post("/v1/actions", json=body)).json()["action_id"]
    await reached(operator, f"/v1/actions/{action_id}", "awaiting_approval")
    assert (await operator.post(f"/v1/actions/{action_id}/cancel")).status_code == 202
    await reached(operator, f"/v1/actions/{action_id}", "cancelled")
    approval = (await operator.get(f"/v1/approvals/{action_id}")).json()
    assert approval["status"] == "cancelled"
    again = await operator.post(f"/v1/actions/{action_id}/cancel")
    assert (again.status_code, again.json()["status"]) == (202, "cancelled")


async def test_a_question_to_an_agent_that_does_not_exist_fails_at_once(
    worker: RunningWorker, unique: Callable[[str], str]
) -> None:
    request = RAGRequest(
        query="Who?", user_id="alice", session_id="s9", tenant_id="acme", run_id=unique("run"), steps=["reserch"]
    )
    await worker.start_run(request)

    async def ended() -> Any:
        found = await worker.rows("acme", "SELECT status, error FROM flotilla.runs WHERE session_id = 's9'")
        return found[0] if found and found[0]["status"] == "error" else None

    error = json.loads((await eventually(ended, timeout_s=15))["error"])
    assert error["type"] == "UnknownAgent"
    assert "reserch" in error["message"]
    assert "research" in error["message"]
