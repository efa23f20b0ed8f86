"""Questions of workflows to people: who sees them, who may answer, one answer, and what becomes of the run."""

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from flotilla.contracts.questions import answer_event_name
from flotilla.contracts.requests import RUN_EVENT_SIGNAL, OutsideEvent
from tests.integration.gateway.conftest import Gate, Replica, answering
from tests.support.gateway import RunningGateway
from tests.support.packages import CHOOSING, CHOOSING_ENTRY_POINTS, installed, write_package
from tests.support.waiting import eventually
from tests.support.worker import RunningWorker

NORTH = {"supplier": "North", "cents": 5}


@pytest.fixture
async def worker(
    gateway: RunningGateway, redis_url: str, temporal_address: str, gate: Gate, tmp_path: Path
) -> AsyncIterator[RunningWorker]:
    write_package(tmp_path, "choosing", CHOOSING.read_text(), CHOOSING_ENTRY_POINTS)
    with installed(tmp_path, "choosing"):
        async with answering(gateway, redis_url, temporal_address, gate) as running:
            yield running


@pytest.fixture
async def owner(gateway: RunningGateway) -> httpx.AsyncClient:
    """Whose sessions they are."""
    return await gateway.client_of("alice", "operator", person=True)


async def started(
    client: httpx.AsyncClient,
    session_id: str,
    workflow: str = "choose",
    data: dict[str, Any] | None = None,
    **options: Any,
) -> str:
    """Start a run that asks; returns its id."""
    body = {"workflow": workflow, "input": {"roles": [], **(data or {})}, **options}

    async def accepted() -> str | None:
        answer = await client.post(f"/v1/sessions/{session_id}/runs", json=body)
        return answer.json()["run_id"] if answer.status_code == 202 else None  # until the worker has published it

    run_id: str = await eventually(accepted, timeout_s=20)
    return run_id


async def asked(client: httpx.AsyncClient, run_id: str, status: str = "open") -> dict[str, Any]:
    async def there() -> dict[str, Any] | None:
        page = (await client.get("/v1/questions", params={"run_id": run_id, "status": status})).json()
        return page["questions"][0] if page["questions"] else None

    question: dict[str, Any] = await eventually(there, timeout_s=20)
    return question


async def answered(client: httpx.AsyncClient, question: dict[str, Any], data: Any) -> httpx.Response:
    return await client.post(f"/v1/questions/{question['question_id']}/answer", json={"answer": data})


async def ended(client: httpx.AsyncClient, run_id: str) -> dict[str, Any]:
    async def over() -> dict[str, Any] | None:
        run: dict[str, Any] = (await client.get(f"/v1/runs/{run_id}")).json()
        return run if run["finished_at"] else None

    run: dict[str, Any] = await eventually(over, timeout_s=30)
    return run


async def changes(client: httpx.AsyncClient, session_id: str) -> list[dict[str, Any]]:
    """The session's events about questions."""
    events = (await client.get(f"/v1/sessions/{session_id}/events")).json()["events"]
    data = [event["data"] for event in events]
    return [one for one in data if one.get("change", "").startswith("run_question_")]


async def test_the_first_answer_counts_however_often_it_is_sent(
    worker: RunningWorker, gateway: RunningGateway, owner: httpx.AsyncClient, unique: Callable[[str], str]
) -> None:
    session_id = unique("s")
    run_id = await started(owner, session_id)
    question = await asked(owner, run_id)
    assert (question["question"], question["schema"]["required"]) == ("Which supplier?", ["supplier"])
    assert (await owner.get(f"/v1/runs/{run_id}")).json()["status"] == "interrupted"
    both = await asyncio.gather(*(answered(owner, question, NORTH) for _ in range(5)))
    assert [one.status_code for one in both] == [200] * 5
    other = await answered(owner, question, {"supplier": "South"})
    assert (other.status_code, other.json()["code"]) == (409, "already_answered")
    run = await ended(owner, run_id)
    assert (run["status"], run["output"]) == ("success", {"supplier": "North", "how": "answered"})
    told = await changes(owner, session_id)
    assert [one["change"] for one in told] == ["run_question_asked", "run_question_answered"]
    assert (told[1]["details"]["answer"], told[1]["details"]["by"]) == (NORTH, "alice")
    shown = (await owner.get(f"/v1/questions/{question['question_id']}")).json()
    assert (shown["status"], shown["answer"], shown["answered_by"]) == ("answered", NORTH, "alice")


async def test_an_answer_that_does_not_fit_is_refused_with_the_field(
    worker: RunningWorker, owner: httpx.AsyncClient, unique: Callable[[str], str]
) -> None:
    question = await asked(owner, await started(owner, unique("s")))
    for data, pointer in (
        ({}, "#/answer"),
        ({"supplier": 7}, "#/answer/supplier"),
        ({"supplier": "North", "cents": "many"}, "#/answer/cents"),
        ({"supplier": "North", "more": 1}, "#/answer"),
        ({"supplier": "x" * 70_000}, "#/answer"),
        ({"supplier": "\x00"}, "#/answer"),
        ([], "#/answer"),
    ):
        refused = await answered(owner, question, data)
        assert refused.status_code == 422, (data, refused.text)
        assert refused.json()["errors"][0]["pointer"] == pointer, refused.text
    assert (await asked(owner, question["run_id"]))["status"] == "open"


async def test_roles_let_those_answer_who_do_not_see_the_session_and_nobody_else(
    worker: RunningWorker, gateway: RunningGateway, owner: httpx.AsyncClient, unique: Callable[[str], str]
) -> None:
    session_id = unique("s")
    run_id = await started(owner, session_id, data={"roles": ["approver"]})
    question = await asked(owner, run_id)
    paula = await gateway.client_of("paula", "approver", person=True)
    assert (await paula.get(f"/v1/sessions/{session_id}")).status_code == 404
    assert (await asked(paula, run_id))["question_id"] == question["question_id"]
    refusals = {
        "alice": (owner, 403, "wrong_role"),
        "a service": (await gateway.client_of("bot", "approver"), 403, "not_a_person"),
        "another operator": (await gateway.client_of("olaf", "operator", person=True), 404, "not_found"),
        "another tenant": (await gateway.client_of("eve", "approver", tenant="other", person=True), 404, "not_found"),
    }
    for who, (client, status, code) in refusals.items():
        answer = await answered(client, question, NORTH)
        assert (answer.status_code, answer.json()["code"]) == (status, code), who
    assert (await answered(paula, question, NORTH)).status_code == 200
    assert (await ended(owner, run_id))["output"]["supplier"] == "North"
    assert (await paula.get(f"/v1/sessions/{session_id}")).status_code == 404


async def test_without_roles_only_who_may_write_to_the_session_answers(
    worker: RunningWorker, gateway: RunningGateway, owner: httpx.AsyncClient, unique: Callable[[str], str]
) -> None:
    session_id = unique("s")
    question = await asked(owner, await started(owner, session_id))
    reader = await gateway.client_of("rita", "operator", person=True)
    assert (await answered(reader, question, NORTH)).status_code == 404
    change = {"add_readers": [{"kind": "user", "name": "rita"}]}
    shared = await owner.patch(f"/v1/sessions/{session_id}/access", json=change)
    assert shared.is_success, shared.text
    assert (await answered(reader, question, NORTH)).status_code == 403
    viewer = await gateway.client_of("vera", "viewer", person=True)
    assert (await answered(viewer, question, NORTH)).status_code == 404
    assert (await answered(owner, question, NORTH)).status_code == 200


async def test_a_deadline_that_passes_and_a_cancelled_run_close_the_question(
    worker: RunningWorker, owner: httpx.AsyncClient, unique: Callable[[str], str]
) -> None:
    late, called_off = unique("s"), unique("s")
    expired = await asked(owner, await started(owner, late, data={"seconds": 1}), "expired")
    assert (await ended(owner, expired["run_id"]))["output"] == {"supplier": "", "how": "expired"}
    run_id = await started(owner, called_off)
    cancelled = await asked(owner, run_id)
    assert (await owner.post(f"/v1/runs/{run_id}/cancel")).status_code == 202
    assert (await ended(owner, run_id))["status"] == "cancelled"
    for question in (expired, cancelled):
        answer = await answered(owner, question, NORTH)
        assert (answer.status_code, answer.json()["code"]) == (409, "question_closed")
    assert [one["change"] for one in await changes(owner, late)] == ["run_question_asked", "run_question_expired"]
    assert [one["change"] for one in await changes(owner, called_off)] == [
        "run_question_asked",
        "run_question_cancelled",
    ]


@pytest.mark.parametrize("event_id", ["forged-{n}", "answer:{question_id}"])
@pytest.mark.parametrize("name", ["question:{question_id}", "other"])
async def test_who_reaches_temporal_neither_answers_nor_keeps_the_answer_from_its_run(
    worker: RunningWorker, owner: httpx.AsyncClient, unique: Callable[[str], str], *, event_id: str, name: str
) -> None:
    run_id = await started(owner, unique("s"))
    question = await asked(owner, run_id)
    handle = worker.client.get_workflow_handle(f"run-{run_id}")
    assert answer_event_name("x") == "question:x"
    for n in range(3):
        ids = {"n": n, "question_id": question["question_id"]}
        forged = OutsideEvent(
            event_id=event_id.format(**ids), name=name.format(**ids), data={"answer": {"supplier": "mine"}}
        )
        await handle.signal(RUN_EVENT_SIGNAL, forged)
    settled = "SELECT count(*) FROM flotilla.questions WHERE question_id = $1 AND status = 'open'"
    assert (await worker.rows("acme", settled, question["question_id"]))[0][0] == 1
    await answered(owner, question, NORTH)
    assert (await ended(owner, run_id))["output"]["supplier"] == "North"


async def test_an_answer_that_is_in_no_history_is_not_believed(
    worker: RunningWorker, gateway: RunningGateway, owner: httpx.AsyncClient, unique: Callable[[str], str]
) -> None:
    run_id = await started(owner, unique("s"))
    question = await asked(owner, run_id)
    await gateway.as_superuser(
        "UPDATE flotilla.questions SET status = 'answered', answer = '{\"supplier\": \"mine\"}', event_seq = 1, "
        f"answered_by = 'alice' WHERE question_id = '{question['question_id']}'"
    )
    wake_up = OutsideEvent(event_id="e", name=answer_event_name(question["question_id"]), data={})
    await worker.client.get_workflow_handle(f"run-{run_id}").signal(RUN_EVENT_SIGNAL, wake_up)
    run = await ended(owner, run_id)
    assert (run["status"], run["error"]["type"]) == ("error", "Unproven")


async def test_an_answer_given_while_temporal_is_away_or_the_worker_restarts_arrives(
    gateway: RunningGateway,
    replica: Replica,
    redis_url: str,
    temporal_address: str,
    *,
    gate: Gate,
    tmp_path: Path,
    owner: httpx.AsyncClient,
    unique: Callable[[str], str],
) -> None:
    write_package(tmp_path, "choosing", CHOOSING.read_text(), CHOOSING_ENTRY_POINTS)
    with installed(tmp_path, "choosing"):
        async with answering(gateway, redis_url, temporal_address, gate):
            run_id = await started(owner, unique("s"), "choose-later", {"roles": ["again"]})
            question = await asked(owner, run_id)
        blind = replica(temporal_address="127.0.0.1:1", task_queue=gateway.settings.task_queue)
        async with blind as other:
            key = await gateway.key("alice", ["operator"], person=True)
            assert (await answered(other.client(key), question, NORTH)).status_code == 200
        async with answering(gateway, redis_url, temporal_address, gate):
            assert (await owner.post(f"/v1/runs/{run_id}/events/go", json={})).status_code == 202
            assert (await ended(owner, run_id))["output"] == {"supplier": "North", "how": "answered"}
    assert len((await owner.get("/v1/questions", params={"run_id": run_id})).json()["questions"]) == 1
