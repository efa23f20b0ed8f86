"""Runs that are asked for while another run of their session is active: they wait, interrupt it or roll it back."""

import asyncio
from collections import Counter
from typing import Any

import httpx
import pytest
from temporalio.client import Client

from flotilla.postgres import open_pool, tenant_transaction
from tests.integration.gateway.conftest import Gate, Replica, answering
from tests.support.gateway import RunningGateway
from tests.support.waiting import eventually
from tests.support.worker import RunningWorker
from workflow_worker.queued_runs import open_next_run

OVER = ("success", "cancelled", "error", "timeout")


async def ask(client: httpx.AsyncClient, query: str, **body: Any) -> dict[str, Any]:
    answer = await client.post("/v1/sessions/s/runs", json={"query": query, **body})
    assert answer.status_code in (200, 202), answer.text
    run: dict[str, Any] = answer.json()
    return run


async def read(client: httpx.AsyncClient, run: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = (await client.get(f"/v1/runs/{run['run_id']}")).json()
    return found


async def status(client: httpx.AsyncClient, run: dict[str, Any], *wanted: str) -> dict[str, Any]:
    async def reached() -> dict[str, Any] | None:
        found = await read(client, run)
        return found if found["status"] in (wanted or OVER) else None

    return await eventually(reached, timeout_s=30, every_s=0.1)


async def changes(client: httpx.AsyncClient) -> list[tuple[str, str]]:
    """The changes that steer runs, and whose they are, in the session's order."""
    events = (await client.get("/v1/sessions/s/events", params={"limit": 1000})).json()["events"]
    found = [(event["data"].get("change", ""), event.get("runid", "")) for event in events]
    return [
        (change, run_id) for change, run_id in found if change.startswith(("run_", "rolled")) and "step" not in change
    ]


async def questions(client: httpx.AsyncClient) -> list[str]:
    """The user's messages that are part of the session's state."""
    state = (await client.get("/v1/sessions/s/state")).json()
    return [message["content"] for message in state["messages"] if message["role"] == "user"]


async def test_enqueued_runs_start_in_order_when_those_before_them_end(
    operator: httpx.AsyncClient, worker: RunningWorker, gate: Gate
) -> None:
    first = await ask(operator, "one")
    await status(operator, first, "running")
    waiting = [await ask(operator, text, if_active="enqueue") for text in ("two", "three", "four")]
    assert [run["status"] for run in waiting] == ["queued"] * 3
    listed = (await operator.get("/v1/runs", params={"status": "queued", "session_id": "s"})).json()["runs"]
    assert [run["run_id"] for run in reversed(listed)] == [run["run_id"] for run in waiting]
    refused = await operator.post("/v1/sessions/s/runs", json={"query": "five"})
    assert (refused.status_code, refused.json()["code"]) == (409, "run_in_progress")
    gate.is_open.set()
    await operator.post(f"/v1/runs/{first['run_id']}/cancel")
    assert [(await status(operator, run))["status"] for run in waiting] == ["success"] * 3
    assert await questions(operator) == ["one", "two", "three", "four"]
    order = [run_id for change, run_id in await changes(operator) if change == "run_started"]
    assert order == [run["run_id"] for run in (first, *waiting)]
    last = await status(operator, waiting[-1])
    assert last["if_active"] == "enqueue"


async def test_a_queued_run_can_be_cancelled_and_leaves_the_others_their_places(
    operator: httpx.AsyncClient, worker: RunningWorker, gate: Gate
) -> None:
    first = await ask(operator, "one")
    await status(operator, first, "running")
    second, third = [await ask(operator, text, if_active="enqueue") for text in ("two", "three")]
    answer = await operator.post(f"/v1/runs/{second['run_id']}/cancel")
    assert (answer.status_code, answer.json()["status"]) == (202, "cancelled")
    gate.is_open.set()
    await operator.post(f"/v1/runs/{first['run_id']}/cancel")
    assert (await status(operator, third))["status"] == "success"
    assert (await read(operator, second))["status"] == "cancelled"
    assert await questions(operator) == ["one", "three"]


async def test_an_interrupting_run_ends_the_active_one_and_starts_before_those_that_are_enqueued(
    operator: httpx.AsyncClient, worker: RunningWorker, gate: Gate
) -> None:
    first = await ask(operator, "one")
    await status(operator, first, "running")
    later = await ask(operator, "later", if_active="enqueue")
    gate.is_open.set()
    now = await ask(operator, "now", if_active="interrupt")
    assert now["status"] == "queued"
    assert [(await status(operator, run))["status"] for run in (first, now, later)] == [
        "cancelled",
        "success",
        "success",
    ]
    assert await questions(operator) == ["one", "now", "later"]
    seen = await changes(operator)
    assert seen.index(("run_finished", first["run_id"])) < seen.index(("run_started", now["run_id"]))
    assert ("run_cancel_requested", first["run_id"]) in seen


async def test_of_two_interrupting_runs_the_second_one_interrupts_the_first(
    operator: httpx.AsyncClient, gateway: RunningGateway, redis_url: str, temporal_address: str, gate: Gate
) -> None:
    first = await ask(operator, "one")
    second, third = [await ask(operator, text, if_active="interrupt") for text in ("two", "three")]
    gate.is_open.set()
    async with answering(gateway, redis_url, temporal_address, gate):
        ended = [(await status(operator, run))["status"] for run in (first, second, third)]
    assert ended == ["cancelled", "cancelled", "success"]
    assert await questions(operator) == ["one", "two", "three"]
    started = Counter(run_id for change, run_id in await changes(operator) if change == "run_started")
    assert started == {run["run_id"]: 1 for run in (first, second, third)}


async def test_a_rolling_back_run_starts_from_what_was_before_the_active_one(
    operator: httpx.AsyncClient, worker: RunningWorker, gate: Gate
) -> None:
    gate.is_open.set()
    await status(operator, await ask(operator, "zero"))
    gate.is_open.clear()
    first = await ask(operator, "one")
    await status(operator, first, "running")
    gate.is_open.set()
    instead = await ask(operator, "instead", if_active="rollback")
    assert (await status(operator, instead))["status"] == "success"
    assert (await read(operator, first))["status"] == "cancelled"
    assert await questions(operator) == ["zero", "instead"]
    assert [change for change, _ in await changes(operator)].count("rolled_back") == 1


async def test_a_run_that_began_after_waiting_is_rolled_back_to_where_it_began(
    operator: httpx.AsyncClient, worker: RunningWorker, gate: Gate
) -> None:
    first = await ask(operator, "one")
    await status(operator, first, "running")
    second = await ask(operator, "two", if_active="enqueue")
    await operator.post(f"/v1/runs/{first['run_id']}/cancel")
    await status(operator, second, "running")
    gate.is_open.set()
    third = await ask(operator, "three", if_active="rollback")
    assert (await status(operator, third))["status"] == "success"
    assert await questions(operator) == ["one", "three"]


@pytest.mark.parametrize("policy", ["enqueue", "interrupt", "rollback"])
async def test_without_an_active_run_every_policy_starts_at_once(
    operator: httpx.AsyncClient, worker: RunningWorker, gate: Gate, policy: str
) -> None:
    gate.is_open.set()
    run = await ask(operator, "one", if_active=policy)
    assert run["status"] == "pending"
    ended = await status(operator, run)
    assert (ended["status"], ended["if_active"]) == ("success", None)
    assert await questions(operator) == ["one"]


async def test_a_run_that_never_began_makes_room_when_it_is_interrupted(
    operator: httpx.AsyncClient, gateway: RunningGateway, redis_url: str, temporal_address: str, gate: Gate
) -> None:
    first = await ask(operator, "one")  # no worker yet
    second = await ask(operator, "two", if_active="enqueue")
    [begun] = await gateway.rows("SELECT workflow_id FROM flotilla.runs WHERE query = 'one'")
    temporal = await Client.connect(temporal_address)
    await temporal.get_workflow_handle(begun["workflow_id"]).terminate()
    await gateway.as_superuser(f"UPDATE flotilla.runs SET workflow_id = 'lost-{first['run_id']}' WHERE query = 'one'")
    third = await ask(operator, "three", if_active="interrupt")
    gate.is_open.set()
    async with answering(gateway, redis_url, temporal_address, gate):
        assert (await status(operator, third))["status"] == "success"
        assert (await status(operator, second))["status"] == "success"
    assert (await read(operator, first))["status"] == "cancelled"


async def test_a_repeated_request_waits_once(operator: httpx.AsyncClient) -> None:
    await ask(operator, "one")
    body, key = {"query": "two", "if_active": "enqueue"}, {"Idempotency-Key": "k1"}
    answers = await asyncio.gather(*(operator.post("/v1/sessions/s/runs", json=body, headers=key) for _ in range(5)))
    assert len({answer.json()["run_id"] for answer in answers}) == 1
    queued = (await operator.get("/v1/runs", params={"status": "queued"})).json()["runs"]
    assert len(queued) == 1


async def test_a_session_holds_so_many_waiting_runs_and_no_more(
    operator: httpx.AsyncClient, replica: Replica, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.runs.queue.MAX_QUEUED", 2)
    for text in ("one", "two", "three"):
        await ask(operator, text, if_active="enqueue")
    refused = await operator.post("/v1/sessions/s/runs", json={"query": "four", "if_active": "enqueue"})
    assert (refused.status_code, refused.json()["code"]) == (429, "too_many")


async def test_fifty_messages_at_once_are_all_answered_once_each(
    operator: httpx.AsyncClient, worker: RunningWorker, gate: Gate
) -> None:
    gate.is_open.set()
    policies = ("enqueue", "interrupt", "enqueue", "rollback", "reject")
    bodies = [{"query": f"m{n}", "if_active": policies[n % 5]} for n in range(50)]
    answers = await asyncio.gather(*(operator.post("/v1/sessions/s/runs", json=body) for body in bodies))
    assert {answer.status_code for answer in answers} <= {202, 409}
    accepted = [answer.json() for answer in answers if answer.status_code == 202]
    assert len(accepted) >= 40
    ends = [(await status(operator, run))["status"] for run in accepted]
    assert set(ends) <= {"success", "cancelled"}
    seen = await changes(operator)
    started = Counter(run_id for change, run_id in seen if change == "run_started")
    finished = Counter(run_id for change, run_id in seen if change == "run_finished")
    assert started == finished == {run["run_id"]: 1 for run in accepted}
    bounds = [change for change, _ in seen if change in ("run_started", "run_finished")]
    assert bounds == ["run_started", "run_finished"] * len(accepted)


async def test_people_who_ask_at_the_same_moment_wait_for_each_other(replica: Replica) -> None:
    # Of one person the limit of open runs would let in one request after the other.
    async with replica(session_visibility="tenant") as gateway:
        people = [await gateway.client_of(f"p{n}", "operator", person=True) for n in range(8)]
        assert (await people[0].post("/v1/sessions", json={"session_id": "s"})).status_code == 201
        body = {"query": "m", "if_active": "enqueue"}
        asked = (one.post("/v1/sessions/s/runs", json=body) for _ in range(4) for one in people)
        answers = await asyncio.gather(*asked)
        assert Counter(answer.status_code for answer in answers) == {202: 32}
        assert Counter(answer.json()["status"] for answer in answers) == {"pending": 1, "queued": 31}


async def test_a_run_that_several_would_open_at_the_same_moment_is_opened_once(
    gateway: RunningGateway, operator: httpx.AsyncClient
) -> None:
    first = await ask(operator, "one")
    second, third = [await ask(operator, text, if_active="enqueue") for text in ("two", "three")]
    await gateway.as_superuser(f"UPDATE flotilla.runs SET status = 'error' WHERE run_id = '{first['run_id']}'")
    async with open_pool(gateway.database.dsn("flotilla_worker"), application="test") as pool:

        async def open_next() -> bool:
            async with tenant_transaction(pool, "acme") as connection:
                return await open_next_run(connection, "acme", "s")

        opened = await asyncio.gather(*(open_next() for _ in range(6)))
    assert Counter(opened) == {True: 1, False: 5}
    assert (await read(operator, second))["status"] == "pending"
    assert (await read(operator, third))["status"] == "queued"
    started = [run_id for change, run_id in await changes(operator) if change == "run_started"]
    assert started == [first["run_id"], second["run_id"]]
