"""What was approved runs once, exactly as approved; webhooks reach their receivers, signed."""

import base64
import hashlib
import hmac
import json
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from temporalio.exceptions import ApplicationError
from temporalio.testing import ActivityEnvironment

from flotilla.actions import ActionContext
from flotilla.approvals.policy import parse_policy
from flotilla.contracts.approvals import content_hash
from flotilla.contracts.envelope import to_json
from flotilla.contracts.json_types import JsonObject, JsonValue
from flotilla.contracts.requests import RAGResponse
from flotilla.postgres import Pool, tenant_transaction
from flotilla.runtime import http_server
from tests.integration.approvals.desk import BOB, POLICY, Desk, loaded, open_desk
from tests.support.tickets import SIGNER
from tests.support.time_skipping import time_skipping_server
from tests.support.waiting import eventually
from workflow_worker.actions.registry import ActionHandlerRegistry, load_action_handlers
from workflow_worker.activities.actions import ActionActivities
from workflow_worker.activities.signatures.actions import ActionExecution, ActionReference
from workflow_worker.activities.webhooks import WebhookReceivers

ANY_POLICY = parse_policy(POLICY, "test")
ADD_SESSION = "INSERT INTO flotilla.sessions (tenant_id, session_id, user_id) VALUES ('acme', 's', 'u')"
ADD_FINISHED_RUN = """
INSERT INTO flotilla.runs (tenant_id, run_id, session_id, user_id, workflow_id, query, status, request, result)
VALUES ('acme', 'r1', 's', 'u', 'w', 'q', 'success', '{}', $1)
"""


class Receiver:
    """An HTTP server that remembers what it got and answers as told."""

    def __init__(self) -> None:
        self.requests: list[tuple[str, dict[str, str], bytes]] = []
        self.codes: list[int] = []
        self.port = 0

    async def handle(self, request: Request) -> Response:
        self.requests.append((request.method, dict(request.headers), await request.body()))
        return Response("ok", status_code=self.codes.pop(0) if self.codes else 200)


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    """A receiver on a free port."""
    it = Receiver()
    app = Starlette(routes=[Route("/{path:path}", it.handle, methods=["GET", "POST"])])
    async with http_server(app, "127.0.0.1", 0).serving() as port:
        it.port = port
        yield it


@pytest.fixture
async def outside(pool: Pool, unique: Callable[[str], str], receiver: Receiver) -> AsyncIterator[Desk]:
    """A desk whose actions may call the receiver, and whose webhooks go there."""
    receivers = WebhookReceivers((f"http://127.0.0.1:{receiver.port}/hook",), b"secret")
    async with (
        time_skipping_server() as environment,
        open_desk(
            environment.client,
            pool,
            unique("queue"),
            receivers=receivers,
            hosts=(f"http://127.0.0.1:{receiver.port}", "localhost:8443"),
        ) as desk,
    ):
        yield desk


async def test_webhooks_are_signed_and_repeated_until_they_are_taken(outside: Desk, receiver: Receiver) -> None:
    receiver.codes = [503, 500]
    handle = await outside.submit()

    async def delivered() -> Any:
        return await outside.rows("SELECT * FROM flotilla.webhook_deliveries WHERE status = 'delivered'")

    [row] = await eventually(delivered, timeout_s=20)
    assert row["attempts"] == 3
    ids = {headers["webhook-id"] for _, headers, _ in receiver.requests}
    assert ids == {row["delivery_id"]}
    _, headers, body = receiver.requests[-1]
    signed = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.".encode() + body
    expected = base64.b64encode(hmac.new(b"secret", signed, hashlib.sha256).digest()).decode()
    assert headers["webhook-signature"] == f"v1,{expected}"
    told = json.loads(body)
    assert told["type"] == "approval.requested"
    assert told["data"]["content_hash"] == content_hash("echo", {"text": "hello"})
    await handle.terminate()


async def test_a_receiver_that_refuses_does_not_hold_the_vote_up(outside: Desk, receiver: Receiver) -> None:
    receiver.codes = [410]
    handle = await outside.submit()
    await eventually(lambda: outside.in_inbox(handle))
    await eventually(lambda: receiver.requests)
    await outside.decide(handle, BOB)
    assert (await handle.result()).status == "completed"
    [row] = await outside.rows("SELECT status, last_status_code FROM flotilla.webhook_deliveries")
    assert tuple(row) == ("failed", 410)


async def test_an_http_request_carries_its_idempotency_key_through_repetitions(
    outside: Desk, receiver: Receiver
) -> None:
    receiver.codes = [200, 503]  # the webhook, then the first attempt
    args: JsonObject = {"method": "POST", "url": f"http://127.0.0.1:{receiver.port}/pay", "json": {"amount": 5}}
    handle = await outside.submit(action="http_request", args=args)
    await eventually(lambda: receiver.requests)
    await outside.decide(handle, BOB, action="http_request", seen=args)
    state = await handle.result()
    assert state.result == {"status_code": 200, "body": "ok"}
    calls = [headers["idempotency-key"] for _, headers, _ in receiver.requests[1:]]
    assert calls == [handle.id.removeprefix("action-")] * 2
    assert json.loads(receiver.requests[-1][2]) == {"amount": 5}


@pytest.mark.parametrize(
    "url",
    [
        "http://elsewhere/",
        "http://localhost:8443/",
        "http://127.0.0.1:1/",
        "file:///etc/passwd",
        "http://user@127.0.0.1/",
        "http://[::1",
    ],
)
async def test_a_host_that_is_not_listed_is_never_called(outside: Desk, receiver: Receiver, url: str) -> None:
    handle = await outside.submit(action="http_request", risk="low", args={"method": "GET", "url": url})
    await eventually(lambda: outside.in_inbox(handle))
    await outside.decide(handle, BOB, action="http_request", seen={"method": "GET", "url": url, "json": None})
    state = await handle.result()
    assert state.status == "failed"
    assert str(state.error).startswith(("Forbidden", "Invalid"))


async def test_a_listed_host_is_called_over_https_unless_its_entry_says_http(outside: Desk, receiver: Receiver) -> None:
    for url, error in (
        (f"https://127.0.0.1:{receiver.port}/", "Forbidden: https://127.0.0.1"),
        ("http://localhost:8443/", "Forbidden: http://localhost:8443 is not on the list"),
    ):
        handle = await outside.submit(action="http_request", risk="low", args={"method": "GET", "url": url})
        await eventually(partial(outside.in_inbox, handle))
        await outside.decide(handle, BOB, action="http_request", seen={"method": "GET", "url": url, "json": None})
        state = await handle.result()
        assert (state.status, str(state.error).startswith(error)) == ("failed", True), state.error


async def test_publishing_an_answer_twice_publishes_it_once(desk: Desk) -> None:
    answer = to_json(RAGResponse(answer="42", sources=[], confidence=1.0)).decode()
    async with tenant_transaction(desk.pool, "acme") as connection:
        await connection.execute(ADD_SESSION)
        await connection.execute(ADD_FINISHED_RUN, answer)
    results = []
    for _ in range(2):
        handle = await desk.submit(action="publish_answer", args={"run_id": "r1"})
        await eventually(partial(desk.in_inbox, handle))
        await desk.decide(handle, BOB, action="publish_answer", seen={"run_id": "r1"})
        results.append((await handle.result()).result)
    assert results[0] == results[1]
    [row] = await desk.rows("SELECT answer FROM flotilla.publications")
    assert loaded(row["answer"])["answer"] == "42"
    assert len(await desk.rows("SELECT 1 FROM flotilla.event_outbox WHERE session_id = 's'")) == 1


def execution(**changes: Any) -> ActionExecution:
    fields: dict[str, Any] = {
        "key": ActionReference(tenant_id="acme", action_id="a1", session_id="a1"),
        "action": "echo",
        "args": {"text": "hi"},
        "content_hash": content_hash("echo", {"text": "hi"}),
        "approval_required": False,
        "requested_by": "alice",
    }
    return ActionExecution(**(fields | changes))


@dataclass(frozen=True)
class NoArgs:
    """Takes anything away from the action but its name."""

    text: str = ""


async def test_a_repeated_execution_gives_the_stored_result(desk: Desk) -> None:
    runs = []

    async def count(context: ActionContext, _args: NoArgs) -> JsonValue:
        runs.append(context.idempotency_key)
        return len(runs)

    actions = ActionActivities(
        desk.pool, ANY_POLICY, ActionHandlerRegistry({"echo": count}), httpx.AsyncClient(), signer=SIGNER
    )
    first = await ActivityEnvironment().run(actions.execute_action, execution())
    second = await ActivityEnvironment().run(actions.execute_action, execution())
    assert (first, runs) == (second, ["a1"])


@pytest.mark.parametrize(
    "changes",
    [
        {"args": {"text": "something else"}},
        {"approval_required": True},
    ],
)
async def test_nothing_runs_without_an_approval_of_exactly_this(desk: Desk, changes: dict[str, Any]) -> None:
    actions = ActionActivities(desk.pool, ANY_POLICY, load_action_handlers(), httpx.AsyncClient(), signer=SIGNER)
    with pytest.raises(ApplicationError) as caught:
        await ActivityEnvironment().run(actions.execute_action, execution(**changes))
    assert caught.value.type == "NotApproved"
