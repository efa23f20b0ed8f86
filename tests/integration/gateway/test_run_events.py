"""Events from outside for runs of workflows."""

from collections.abc import Callable
from typing import Any

import asyncpg
import httpx
from temporalio.client import Client

from tests.integration.gateway.test_workflow_runs import publish, start
from tests.support.gateway import RunningGateway


async def run_of_a_workflow(gateway: RunningGateway, operator: httpx.AsyncClient, session_id: str) -> str:
    await publish(gateway)
    answer = await start(operator, session_id, workflow="brief", input={"topic": "x"})
    run_id: str = answer.json()["run_id"]
    return run_id


async def send(
    client: httpx.AsyncClient, run_id: str, name: str = "paid", key: str | None = None, **data: Any
) -> httpx.Response:
    headers = {"Idempotency-Key": key} if key else {}
    return await client.post(f"/v1/runs/{run_id}/events/{name}", json={"data": data}, headers=headers)


async def stored(gateway: RunningGateway) -> list[asyncpg.Record]:
    """The rows, which only the services' own roles may read."""
    connection = await asyncpg.connect(gateway.database.superuser_dsn)
    try:
        return await connection.fetch("SELECT * FROM flotilla.run_events")
    finally:
        await connection.close()


async def signals(temporal: Client, run_id: str) -> int:
    history = await temporal.get_workflow_handle(f"run-{run_id}").fetch_history()
    return sum(event.HasField("workflow_execution_signaled_event_attributes") for event in history.events)


async def test_an_event_is_in_the_session_and_signalled_once_however_often_it_is_sent(
    gateway: RunningGateway, operator: httpx.AsyncClient, temporal_client: Client, unique: Callable[[str], str]
) -> None:
    session_id = unique("s")
    run_id = await run_of_a_workflow(gateway, operator, session_id)
    first = await send(operator, run_id, key="k1", cents=5)
    assert first.status_code == 202, first.text
    again = await send(operator, run_id, key="k1", cents=5)
    assert again.json() == first.json()
    assert (await send(operator, run_id, key="k1", cents=6)).status_code == 409
    assert await signals(temporal_client, run_id) == 1
    events = (await operator.get(f"/v1/sessions/{session_id}/events")).json()["events"]
    received = [event["data"]["details"] for event in events if event["data"]["change"] == "run_event_received"]
    assert [(one["name"], one["data"], one["by"]) for one in received] == [("paid", {"cents": 5}, "olga")]
    assert [row["delivered_at"] is not None for row in await stored(gateway)] == [True]


async def test_who_may_not_see_the_session_finds_no_run(
    gateway: RunningGateway, operator: httpx.AsyncClient, unique: Callable[[str], str]
) -> None:
    run_id = await run_of_a_workflow(gateway, operator, unique("s"))
    stranger = await gateway.client_of("mallory", "operator", person=True)
    assert (await send(stranger, run_id)).status_code == 404
    other_tenant = await gateway.client_of("eve", "operator", tenant="other", person=True)
    assert (await send(other_tenant, run_id)).status_code == 404
    viewer = await gateway.client_of("vera", "viewer", person=True)
    assert (await send(viewer, run_id)).status_code == 403
    assert await stored(gateway) == []


async def test_a_question_a_run_that_is_over_and_odd_events_are_refused(
    gateway: RunningGateway, operator: httpx.AsyncClient, unique: Callable[[str], str]
) -> None:
    session_id = unique("s")
    run_id = await run_of_a_workflow(gateway, operator, session_id)
    question = (await start(operator, unique("q"), query="Who?")).json()["run_id"]
    assert (await send(operator, question)).status_code == 422
    assert (await send(operator, run_id, "no name")).status_code == 422
    assert (await send(operator, run_id, text="x" * 70_000)).status_code == 422
    assert (await send(operator, run_id, text="\x00")).status_code == 422
    assert (await send(operator, "none")).status_code == 404
    await gateway.finish(run_id)
    assert (await send(operator, run_id)).status_code == 409
    assert await stored(gateway) == []
