"""Notices of runs: signed, at least once, in order for each run, whatever is away meanwhile."""

import json
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

import httpx
import pytest
from a2a.types.a2a_pb2 import StreamResponse, TaskState
from google.protobuf.json_format import Parse
from temporalio.testing import ActivityEnvironment

from flotilla.bus.live import LiveRunWriter
from flotilla.workflows.calls.runs import PauseRun, RunKey
from flotilla_devstack.ports import free_port
from tests.integration.gateway.conftest import Gate, Replica, answering
from tests.integration.gateway.test_questions import started
from tests.support.gateway import RunningGateway
from tests.support.packages import CHOOSING, CHOOSING_ENTRY_POINTS, installed, write_package
from tests.support.receiver import SECRET, SIGNING_KEY, Receiver
from tests.support.waiting import eventually
from tests.support.worker import RunningWorker
from workflow_worker.activities.runs import RunActivities
from workflow_worker.webhook_signatures import sign_webhook

Working: TypeAlias = Callable[[], AbstractAsyncContextManager[RunningWorker]]


@pytest.fixture
def receiver() -> Receiver:
    return Receiver(free_port())


@pytest.fixture
async def gateway(replica: Replica, receiver: Receiver) -> AsyncIterator[RunningGateway]:
    async with replica(notify_hosts=(f"http://127.0.0.1:{receiver.port}",)) as running:
        yield running


@pytest.fixture
def working(
    *, gateway: RunningGateway, redis_url: str, temporal_address: str, gate: Gate, receiver: Receiver, tmp_path: Path
) -> Working:
    """Starts a worker that may notify the receiver, with the secret of acme."""
    (tmp_path / "acme.hooks").write_text(SECRET + "\n")
    (tmp_path / "globex.theirs").write_text("whsec_dGhlaXJz")
    options: dict[str, Any] = {"notify_hosts": (f"http://127.0.0.1:{receiver.port}",), "notify_secrets": tmp_path}
    return lambda: answering(gateway, redis_url, temporal_address, gate, **options)


async def ask(client: httpx.AsyncClient, session_id: str = "s", **body: Any) -> str:
    answer = await client.post(f"/v1/sessions/{session_id}/runs", json={"query": "Who?", **body})
    assert answer.status_code == 202, answer.text
    run_id: str = answer.json()["run_id"]
    return run_id


async def notices(client: httpx.AsyncClient, run_id: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = (await client.get(f"/v1/runs/{run_id}/notices")).json()["notices"]
    return found


async def test_the_end_of_a_run_reaches_its_receiver_signed(
    operator: httpx.AsyncClient, working: Working, receiver: Receiver, gate: Gate
) -> None:
    gate.is_open.set()
    async with working(), receiver.listening():
        run_id = await ask(operator, notify={"url": receiver.url, "secret_ref": "hooks"}, metadata={"ticket": "T-1"})
        await eventually(lambda: receiver.taken(run_id), timeout_s=30)
    (_, headers, body) = receiver.got[0]
    signed = sign_webhook(SIGNING_KEY, headers["webhook-id"], int(headers["webhook-timestamp"]), body)
    assert headers["webhook-signature"] == signed
    document = json.loads(body)
    assert (document["type"], document["data"]["status"], document["data"]["metadata"]) == (
        "run.finished",
        "success",
        {"ticket": "T-1"},
    )
    assert "harbour master" not in body.decode()
    (notice,) = await notices(operator, run_id)
    assert (notice["status"], notice["attempts"], notice["delivery_id"]) == ("delivered", 1, headers["webhook-id"])


async def test_a_task_notifies_its_receivers_in_the_words_of_a2a_signed_with_their_token(
    operator: httpx.AsyncClient, working: Working, receiver: Receiver, gate: Gate, tmp_path: Path
) -> None:
    (tmp_path / "acme.a2a").write_text(SECRET)
    gate.is_open.set()
    config = {"id": "one", "url": receiver.url, "token": "t-1"}
    message = {"messageId": "m-1", "role": "ROLE_USER", "parts": [{"text": "Who?"}]}
    body = {"message": message, "configuration": {"returnImmediately": True, "taskPushNotificationConfig": config}}
    async with working(), receiver.listening():
        answer = await operator.post("/a2a/workflows/rag/message:send", json=body, headers={"A2A-Version": "1.0"})
        await eventually(lambda: len(receiver.got) == 1, timeout_s=30)
    (_, headers, sent) = receiver.got[0]
    assert headers["x-a2a-notification-token"] == "t-1"
    timestamp = int(headers["webhook-timestamp"])
    assert headers["webhook-signature"] == sign_webhook(SIGNING_KEY, headers["webhook-id"], timestamp, sent)
    update = Parse(sent, StreamResponse()).status_update
    task = answer.json()["task"]
    assert (update.task_id, update.context_id) == (task["id"], task["contextId"])
    assert update.status.state == TaskState.TASK_STATE_COMPLETED
    assert update.status.HasField("timestamp")


async def test_question_of_a_task_is_pushed_as_input_required_and_answered_by_a_message(
    operator: httpx.AsyncClient, working: Working, receiver: Receiver, tmp_path: Path
) -> None:
    (tmp_path / "acme.a2a").write_text(SECRET)
    write_package(tmp_path / "site", "choosing", CHOOSING.read_text(), CHOOSING_ENTRY_POINTS)

    async def send(message_id: str, text: str, **fields: str) -> Any:
        message = {"messageId": message_id, "role": "ROLE_USER", "parts": [{"text": text}], **fields}
        configuration = {"returnImmediately": True, "taskPushNotificationConfig": {"url": receiver.url}}
        body = {"message": message, "configuration": configuration}
        return await operator.post("/a2a/workflows/choose/message:send", json=body, headers={"A2A-Version": "1.0"})

    def states() -> list[str]:
        updates = [Parse(sent, StreamResponse()).status_update for _, _, sent in receiver.got]
        return [TaskState.Name(update.status.state).removeprefix("TASK_STATE_") for update in updates]

    with installed(tmp_path / "site", "choosing"):
        async with working(), receiver.listening():

            async def accepted() -> Any:
                answer = await send("m-1", '{"roles": []}')
                return answer.json()["task"] if answer.is_success else None  # until the worker has published it

            task = await eventually(accepted, timeout_s=20)
            await eventually(lambda: states() == ["INPUT_REQUIRED"], timeout_s=30)
            answered = await send("m-2", '{"supplier": "North"}', taskId=task["id"])
            assert answered.is_success, answered.text
            await eventually(lambda: states() == ["INPUT_REQUIRED", "COMPLETED"], timeout_s=30)
            path = f"/a2a/workflows/choose/tasks/{task['id']}"
            done = (await operator.get(path, headers={"A2A-Version": "1.0"})).json()
    assert done["artifacts"][0]["parts"][0]["data"] == {"supplier": "North", "how": "answered"}


async def test_the_notices_of_a_run_keep_their_order_while_its_receiver_fails(
    operator: httpx.AsyncClient, working: Working, receiver: Receiver, gate: Gate
) -> None:
    receiver.codes = [500, 503, 404]
    async with working() as worker, receiver.listening():
        run_id = await ask(operator, notify={"url": receiver.url, "secret_ref": "hooks"})
        await eventually(lambda: _is(operator, run_id, "running"), timeout_s=30)
        records, key = RunActivities(worker.pool, LiveRunWriter(worker.redis)), RunKey(tenant_id="acme", run_id=run_id)
        for paused in (True, True, False):
            await ActivityEnvironment().run(records.pause_run, PauseRun(run=key, paused=paused))
        await operator.post(f"/v1/runs/{run_id}/cancel")
        await eventually(lambda: len(receiver.taken(run_id)) == 2, timeout_s=40)
    assert receiver.taken(run_id) == ["run.interrupted", "run.finished"]
    assert [json.loads(body)["type"] for _, _, body in receiver.got] == ["run.interrupted"] * 4 + ["run.finished"]
    ids = [headers["webhook-id"] for _, headers, _ in receiver.got]
    assert len(set(ids[:4])) == 1


async def _is(client: httpx.AsyncClient, run_id: str, *statuses: str) -> bool:
    return (await client.get(f"/v1/runs/{run_id}")).json()["status"] in statuses


async def test_a_notice_outlives_the_worker_and_an_absent_receiver(
    operator: httpx.AsyncClient, working: Working, receiver: Receiver, gate: Gate
) -> None:
    gate.is_open.set()
    async with working():
        run_id = await ask(operator, notify={"url": receiver.url, "secret_ref": "hooks"})

        async def tried() -> bool:
            found = await notices(operator, run_id)
            return bool(found and found[0]["attempts"])

        await eventually(tried, timeout_s=30)
    (waiting,) = await notices(operator, run_id)
    assert waiting["status"] == "pending"
    assert "ConnectError" in waiting["last_error"]
    async with working(), receiver.listening():
        await eventually(lambda: receiver.taken(run_id), timeout_s=40)


async def test_runs_that_name_nobody_reach_the_tenants_receiver(
    gateway: RunningGateway, operator: httpx.AsyncClient, working: Working, receiver: Receiver, gate: Gate
) -> None:
    admin = await gateway.client_of("root", "admin")
    body = {"url": receiver.url, "secret_ref": "hooks"}
    assert (await operator.put("/v1/notify", json=body)).status_code == 403
    assert (await admin.get("/v1/notify")).status_code == 404
    assert (await admin.put("/v1/notify", json=body)).json()["set_by"] == "root"
    gate.is_open.set()
    async with working(), receiver.listening():
        told = await ask(operator)
        await eventually(lambda: receiver.taken(told), timeout_s=30)
        assert (await admin.delete("/v1/notify")).status_code == 200
        untold = await ask(operator, "other")
        await eventually(lambda: _is(operator, untold, "success"), timeout_s=30)
    assert await notices(operator, untold) == []


@pytest.mark.parametrize(
    ("url", "status"),
    [
        ("http://169.254.169.254/latest", 403),
        ("https://127.0.0.1:1/hook", 403),
        ("http://127.0.0.1@evil.example/", 403),
        ("file:///etc/passwd", 403),
        ("not a url", 403),
        ("http://[::1", 422),
    ],
)
async def test_a_receiver_elsewhere_is_refused(operator: httpx.AsyncClient, url: str, status: int) -> None:
    body = {"query": "Who?", "notify": {"url": url, "secret_ref": "hooks"}}
    answer = await operator.post("/v1/sessions/s/runs", json=body)
    assert answer.status_code == status, answer.text


async def test_another_tenants_secret_signs_nothing(
    operator: httpx.AsyncClient, working: Working, receiver: Receiver, gate: Gate
) -> None:
    gate.is_open.set()
    for ref in ("globex.theirs", "../globex", ""):
        body = {"query": "Who?", "notify": {"url": receiver.url, "secret_ref": ref}}
        assert (await operator.post("/v1/sessions/s/runs", json=body)).status_code == 422
    async with working(), receiver.listening():
        run_id = await ask(operator, notify={"url": receiver.url, "secret_ref": "theirs"})

        async def tried() -> str:
            found = await notices(operator, run_id)
            return found[0]["last_error"] or "" if found else ""

        assert "no secret theirs" in await eventually(tried, timeout_s=30)
    assert receiver.got == []


async def test_a_receiver_that_is_gone_is_not_asked_again(
    operator: httpx.AsyncClient, working: Working, receiver: Receiver, gate: Gate
) -> None:
    gate.is_open.set()
    receiver.codes = [410]
    async with working(), receiver.listening():
        run_id = await ask(operator, notify={"url": receiver.url, "secret_ref": "hooks"})

        async def failed() -> bool:
            found = await notices(operator, run_id)
            return bool(found) and found[0]["status"] == "failed"

        await eventually(failed, timeout_s=30)
    assert len(receiver.got) == 1


async def test_people_who_are_asked_are_a_notice_that_does_not_say_what(
    operator: httpx.AsyncClient, working: Working, receiver: Receiver, tmp_path: Path
) -> None:
    write_package(tmp_path / "site", "choosing", CHOOSING.read_text(), CHOOSING_ENTRY_POINTS)
    with installed(tmp_path / "site", "choosing"):
        async with working(), receiver.listening():
            notify = {"url": receiver.url, "secret_ref": "hooks"}
            run_id = await started(operator, "s", "choose", {"roles": ["approver"]}, notify=notify)
            await eventually(lambda: len(receiver.taken(run_id)) == 2, timeout_s=30)
    assert receiver.taken(run_id) == ["run.question_asked", "run.interrupted"]
    told = json.loads(receiver.got[0][2])["data"]
    assert (told["question_id"], told["roles"]) == (f"{run_id}.ask_person", ["approver"])
    assert b"supplier" not in receiver.got[0][2]


TRIES_OF_AN_HOUR = 20
"""After 1, 2, 4, … s, and every five minutes: what a receiver refuses that fails for an hour."""


async def test_a_receiver_that_fails_for_an_hour_gets_each_notice_signed_and_in_order(
    operator: httpx.AsyncClient, working: Working, receiver: Receiver, gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("workflow_worker.notices.MAX_NOTICE_RETRY_WAIT_S", 0.02)
    monkeypatch.setattr("workflow_worker.notices.NOTICE_POLL_INTERVAL_S", 0.02)
    receiver.codes = [500, 503, 429, 408] * (3 * TRIES_OF_AN_HOUR // 4)
    async with working() as worker, receiver.listening():
        records = RunActivities(worker.pool, LiveRunWriter(worker.redis))
        runs = [
            await ask(operator, unique_session, notify={"url": receiver.url, "secret_ref": "hooks"})
            for unique_session in ("a", "b", "c")
        ]
        for run_id in runs:
            await eventually(partial(_is, operator, run_id, "running"), timeout_s=30)
            key = RunKey(tenant_id="acme", run_id=run_id)
            for paused in (True, False, True, False):
                await ActivityEnvironment().run(records.pause_run, PauseRun(run=key, paused=paused))
            await operator.post(f"/v1/runs/{run_id}/cancel")
        await eventually(lambda: all(len(receiver.taken(run_id)) == 3 for run_id in runs), timeout_s=90)
    assert len(receiver.got) == 3 * TRIES_OF_AN_HOUR + 3 * 3
    for run_id in runs:
        assert receiver.taken(run_id) == ["run.interrupted", "run.interrupted", "run.finished"]
    for _, headers, body in receiver.got:
        signed = sign_webhook(SIGNING_KEY, headers["webhook-id"], int(headers["webhook-timestamp"]), body)
        assert headers["webhook-signature"] == signed
