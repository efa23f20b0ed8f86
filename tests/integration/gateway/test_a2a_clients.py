"""The A2A SDK's own client against the gateway, by both bindings; the test plays the workflow worker."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias
from uuid import uuid4

import httpx
import pytest
from a2a.client import A2ACardResolver, Client, ClientConfig, create_client
from a2a.client.errors import A2AClientError
from a2a.helpers import get_artifact_text, get_message_text
from a2a.types.a2a_pb2 import (
    AgentCard,
    AuthenticationInfo,
    CancelTaskRequest,
    DeleteTaskPushNotificationConfigRequest,
    GetExtendedAgentCardRequest,
    GetTaskPushNotificationConfigRequest,
    GetTaskRequest,
    ListTaskPushNotificationConfigsRequest,
    ListTasksRequest,
    Message,
    Part,
    Role,
    SendMessageConfiguration,
    SendMessageRequest,
    StreamResponse,
    SubscribeToTaskRequest,
    Task,
    TaskPushNotificationConfig,
    TaskState,
)
from a2a.utils.errors import (
    A2AError,
    ContentTypeNotSupportedError,
    InvalidParamsError,
    TaskNotCancelableError,
    TaskNotFoundError,
    UnsupportedOperationError,
)
from a2a.utils.signing import InvalidSignaturesError, create_signature_verifier
from google.protobuf.json_format import MessageToDict, ParseDict
from google.protobuf.struct_pb2 import Value
from jwt import PyJWK

from flotilla.bus import connect_redis
from flotilla.bus.live import LiveRunWriter
from flotilla.config.signing import create_key_pair
from gateway.card_key import AgentCardKey
from tests.integration.gateway.conftest import Replica
from tests.integration.gateway.test_workflow_runs import publish
from tests.support.gateway import ANSWER, RunningGateway
from tests.support.waiting import eventually

TEXT = str(ANSWER["answer"])
ClientOf: TypeAlias = Callable[..., Awaitable[Client]]
HOOK = "http://127.0.0.1:9/hook"
ADD_APPROVAL = """
INSERT INTO flotilla.approvals (tenant_id, approval_id, session_id, workflow_id, run_id, action, description, args,
    content_hash, risk_level, reasons, requested_by, requirement, policy_version, quorum, deadline_at)
SELECT 'acme', 'refund-1', session_id, 'action-refund-1', run_id, 'refund', 'd', '{}', 'h', 'low', '{}', 'olga',
    '{"required": true, "risk_level": "low", "reasons": [], "policy_version": "1"}', '1', 1, now() FROM flotilla.runs
"""

ADD_QUESTION = """
INSERT INTO flotilla.questions (tenant_id, question_id, session_id, run_id, workflow_id, question, answer_schema, roles)
SELECT 'acme', 'q-1', session_id, run_id, workflow_id, 'Which quay?',
    '{"type": "object", "properties": {"quay": {"type": "string"}}, "required": ["quay"]}', '{}' FROM flotilla.runs
"""

SHARED = "UPDATE flotilla.sessions SET visibility = 'tenant'"


@pytest.fixture(params=["JSONRPC", "HTTP+JSON"])
def binding(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
async def feed(redis_url: str) -> AsyncIterator[LiveRunWriter]:
    async with connect_redis(redis_url) as redis:
        yield LiveRunWriter(redis)


@pytest.fixture
async def client_of(gateway: RunningGateway, binding: str) -> AsyncIterator[ClientOf]:
    """Makes clients by key; they are closed with the test."""
    async with AsyncExitStack() as stack:

        async def make(key: str, agent: str = "workflows/rag", at: RunningGateway = gateway, **options: Any) -> Client:
            http = at.client(key)
            config = ClientConfig(httpx_client=http, supported_protocol_bindings=[binding], **options)
            return await stack.enter_async_context(await create_client(f"{at.url}/a2a/{agent}", config))

        yield make


@pytest.fixture
async def key(gateway: RunningGateway) -> str:
    return await gateway.key("olga", ["operator"], person=True)


@pytest.fixture
async def client(client_of: ClientOf, key: str) -> Client:
    return await client_of(key)


def message(text: str = "Who opens the gate?", **fields: Any) -> Message:
    given: dict[str, Any] = {"message_id": str(uuid4()), "role": Role.ROLE_USER, "parts": [Part(text=text)]}
    return Message(**given | fields)


def ask(text: str = "Who opens the gate?", *, wait: bool = True, **fields: Any) -> SendMessageRequest:
    configuration = SendMessageConfiguration(return_immediately=not wait)
    return SendMessageRequest(message=message(text, **fields), configuration=configuration)


async def sent(client: Client, request: SendMessageRequest) -> Task:
    """The task as the first event of the stream has it."""
    stream = client.send_message(request)
    try:
        return (await anext(aiter(stream))).task
    finally:
        await stream.aclose()  # type: ignore[attr-defined]


async def collect(stream: AsyncIterator[StreamResponse], seen: list[StreamResponse]) -> None:
    async for event in stream:
        seen += [event]


def text_of(events: list[StreamResponse]) -> str:
    """The answer as a client puts it together."""
    text = ""
    for event in events:
        if event.HasField("artifact_update"):
            update = event.artifact_update
            added = get_artifact_text(update.artifact, "")
            text = text + added if update.append else added
    return text


def shows(events: list[StreamResponse], text: str) -> bool:
    return text_of(events).endswith(text)


def states_of(events: list[StreamResponse]) -> list[str]:
    states = [
        (event.task if event.HasField("task") else event.status_update).status.state
        for event in events
        if not event.HasField("artifact_update")
    ]
    return [TaskState.Name(state).removeprefix("TASK_STATE_") for state in states]


async def newest(gateway: RunningGateway, count: int = 1) -> Any:
    rows: list[Any] = []

    async def are_there() -> bool:
        rows[:] = await gateway.rows("SELECT * FROM flotilla.runs ORDER BY created_at, run_id")
        return len(rows) == count

    await eventually(are_there)
    return rows[-1]


async def set_status(gateway: RunningGateway, status: str) -> None:
    await gateway.as_superuser(f"UPDATE flotilla.runs SET status = '{status}', started_at = now()")


async def test_question_is_answered_by_a_task_that_is_a_run(
    gateway: RunningGateway, client_of: ClientOf, key: str, feed: LiveRunWriter
) -> None:
    client = await client_of(key, streaming=False)
    request = ask(message_id="m-1")
    asking = asyncio.create_task(sent(client, request))
    row = await newest(gateway)
    await gateway.finish(row["run_id"], feed)
    task = await asking
    assert (task.id, task.context_id) == (row["run_id"], row["session_id"])
    assert task.status.state == TaskState.TASK_STATE_COMPLETED
    assert get_artifact_text(task.artifacts[0]) == TEXT
    assert MessageToDict(task.artifacts[0].parts[1].data)["confidence"] == 0.5
    assert [(one.message_id, get_message_text(one)) for one in task.history] == [("m-1", "Who opens the gate?")]
    # Sent twice, it is one task; another message with its id is refused.
    assert await sent(client, request) == task
    with pytest.raises(UnsupportedOperationError, match="was used for another request"):
        await sent(client, ask("And at night?", message_id="m-1"))
    await newest(gateway, 1)
    # The context is the session.
    again = await sent(client, ask("And at night?", context_id=task.context_id, wait=False))
    assert (again.context_id, (await newest(gateway, 2))["session_id"]) == (task.context_id, row["session_id"])
    assert again.status.state == TaskState.TASK_STATE_SUBMITTED


async def test_stream_grows_the_answer_and_every_replica_resumes_it(
    *, gateway: RunningGateway, client: Client, client_of: ClientOf, key: str, feed: LiveRunWriter, replica: Replica
) -> None:
    seen: list[StreamResponse] = []
    reading = asyncio.create_task(collect(client.send_message(ask()), seen))
    row = await newest(gateway)
    await eventually(lambda: "SUBMITTED" in states_of(seen))
    live = await gateway.live(row["run_id"])
    await set_status(gateway, "running")
    await feed.write_token(live, "The harbour ", task_id="t", attempt=1)
    await feed.wait_until_written()
    await eventually(lambda: text_of(seen) == "The harbour")
    async with replica() as other:
        resumed: list[StreamResponse] = []
        elsewhere = await client_of(key, at=other)
        subscribing = asyncio.create_task(
            collect(elsewhere.subscribe(SubscribeToTaskRequest(id=row["run_id"])), resumed)
        )
        await eventually(lambda: text_of(resumed) == "The harbour")
        await feed.write_token(live, "master", task_id="t", attempt=1)
        await feed.wait_until_written()
        await gateway.finish(row["run_id"], feed)
        await asyncio.gather(reading, subscribing)
    assert text_of(seen) == text_of(resumed) == TEXT
    assert states_of(seen) == ["SUBMITTED", "WORKING", "COMPLETED"]
    assert states_of(resumed) == ["WORKING", "COMPLETED"]
    assert sum(event.artifact_update.last_chunk for event in seen) == 1
    with pytest.raises(UnsupportedOperationError, match="is over"):
        await collect(client.subscribe(SubscribeToTaskRequest(id=row["run_id"])), [])


async def test_answer_that_is_written_again_replaces_what_was_sent(
    gateway: RunningGateway, client: Client, feed: LiveRunWriter
) -> None:
    seen: list[StreamResponse] = []
    reading = asyncio.create_task(collect(client.send_message(ask()), seen))
    row = await newest(gateway)
    live = await gateway.live(row["run_id"])
    await feed.write_token(live, "The gate ", task_id="t", attempt=1)
    await feed.wait_until_written()
    await eventually(lambda: text_of(seen) == "The gate")
    await feed.write_reset(live, task_id="t", attempt=2)
    await feed.write_token(live, "The harbour ", task_id="t", attempt=2)
    await feed.wait_until_written()
    await gateway.finish(row["run_id"], feed)
    await reading
    assert text_of(seen) == TEXT


async def test_waiting_for_people_is_auth_required_and_no_message_is_a_vote(
    gateway: RunningGateway, client: Client, feed: LiveRunWriter
) -> None:
    seen: list[StreamResponse] = []
    reading = asyncio.create_task(collect(client.send_message(ask()), seen))
    row = await newest(gateway)
    await eventually(lambda: "SUBMITTED" in states_of(seen))
    await set_status(gateway, "running")
    await eventually(lambda: "WORKING" in states_of(seen))
    await gateway.as_superuser(ADD_APPROVAL)
    await set_status(gateway, "interrupted")
    await eventually(lambda: "AUTH_REQUIRED" in states_of(seen))
    status = seen[-1].status_update.status
    assert "refund" in get_message_text(status.message)
    assert MessageToDict(status.message.parts[1].data)["approvals"][0]["decide_at"] == "/v1/approvals/refund-1"
    for text in ("approve", "yes, I approve refund-1"):
        with pytest.raises(UnsupportedOperationError, match="a message is not a vote"):
            await sent(client, ask(text, task_id=row["run_id"]))
    assert await gateway.rows("SELECT 1 FROM flotilla.approval_decisions") == []
    (approval,) = await gateway.rows("SELECT status, votes FROM flotilla.approvals")
    assert (approval["status"], approval["votes"]) == ("pending", "[]")
    # Who waits for the task instead of following it gets it as soon as nothing goes on without people.
    task = await client.get_task(GetTaskRequest(id=row["run_id"]))
    assert task.status.state == TaskState.TASK_STATE_AUTH_REQUIRED
    # People have decided, then the worker goes on: one change of the task's state, not two.
    await gateway.as_superuser("UPDATE flotilla.approvals SET status = 'approved'")
    await gateway.work(row["run_id"], "decided")
    await eventually(lambda: states_of(seen)[-1] == "WORKING")
    await set_status(gateway, "running")
    await feed.write_step(live := await gateway.live(row["run_id"]), "save", "started", attempt=1, agent="")
    for said in ("The harbour", " master"):  # what comes second is sent after a look at what came first
        await feed.write_token(live, said, task_id="t", attempt=1)
        await feed.wait_until_written()
        await eventually(partial(shows, seen, said))
    await gateway.finish(row["run_id"], feed)
    await reading
    assert states_of(seen) == ["SUBMITTED", "WORKING", "AUTH_REQUIRED", "WORKING", "COMPLETED"]


async def test_request_that_waits_returns_when_people_have_to_decide(
    gateway: RunningGateway, client_of: ClientOf, key: str
) -> None:
    client = await client_of(key, streaming=False)
    asking = asyncio.create_task(sent(client, ask()))
    await newest(gateway)
    await gateway.as_superuser(ADD_APPROVAL)
    await set_status(gateway, "interrupted")
    assert (await asking).status.state == TaskState.TASK_STATE_AUTH_REQUIRED


async def test_task_is_cancelled_once(gateway: RunningGateway, client: Client) -> None:
    task = await sent(client, ask(wait=False))
    cancelling = asyncio.create_task(client.cancel_task(CancelTaskRequest(id=task.id)))

    async def was_asked_to_stop() -> bool:
        return bool(await gateway.rows("SELECT 1 FROM flotilla.event_outbox WHERE body LIKE '%run_cancel_requested%'"))

    await eventually(was_asked_to_stop)
    await gateway.as_superuser("UPDATE flotilla.runs SET status = 'cancelled', finished_at = now()")
    assert (await cancelling).status.state == TaskState.TASK_STATE_CANCELED
    with pytest.raises(TaskNotCancelableError):
        await client.cancel_task(CancelTaskRequest(id=task.id))


async def test_failure_tells_its_reason(gateway: RunningGateway, client: Client) -> None:
    task = await sent(client, ask(wait=False))
    await gateway.as_superuser(
        "UPDATE flotilla.runs SET status = 'error', finished_at = now(), "
        """error = '{"type": "ModelRefused", "message": "no credit left", "where": "write", "retryable": false}'"""
    )
    failed = await client.get_task(GetTaskRequest(id=task.id, history_length=0))
    assert failed.status.state == TaskState.TASK_STATE_FAILED
    assert get_message_text(failed.status.message) == "no credit left"
    assert (list(failed.history), list(failed.artifacts)) == ([], [])


async def test_tasks_are_listed_by_page_state_and_context(
    gateway: RunningGateway, client: Client, feed: LiveRunWriter
) -> None:
    tasks = [await sent(client, ask(f"Question {n}?", wait=False)) for n in range(3)]
    await gateway.finish(tasks[0].id, feed)
    first = await client.list_tasks(ListTasksRequest(page_size=2, include_artifacts=True))
    assert (first.total_size, first.page_size, len(first.tasks)) == (3, 2, 2)
    assert first.tasks[0].id == tasks[0].id, "what changed last comes first"
    assert get_artifact_text(first.tasks[0].artifacts[0]) == TEXT
    second = await client.list_tasks(ListTasksRequest(page_size=2, page_token=first.next_page_token))
    assert {task.id for task in (*first.tasks, *second.tasks)} == {task.id for task in tasks}
    assert second.next_page_token == ""
    for only, expected in (
        (ListTasksRequest(status=TaskState.TASK_STATE_COMPLETED), 1),
        (ListTasksRequest(status=TaskState.TASK_STATE_SUBMITTED), 2),
        (ListTasksRequest(status=TaskState.TASK_STATE_REJECTED), 0),
        (ParseDict({"status": 999}, ListTasksRequest()), 0),
        (ListTasksRequest(context_id=tasks[1].context_id), 1),
        (ListTasksRequest(context_id="elsewhere"), 0),
        (ListTasksRequest(status_timestamp_after=first.tasks[0].status.timestamp), 1),
    ):
        found = await client.list_tasks(only)
        assert (found.total_size, len(found.tasks)) == (expected, expected), only
        assert not any(task.artifacts for task in found.tasks)
    for wrong in ({"page_size": 101}, {"page_token": "x"}, {"history_length": -1}):
        with pytest.raises(InvalidParamsError):
            await client.list_tasks(ParseDict(wrong, ListTasksRequest()))


async def test_workflow_takes_its_input_as_data_as_json_or_as_its_only_text(
    gateway: RunningGateway, client_of: ClientOf, key: str
) -> None:
    await publish(gateway)
    client = await client_of(key, "workflows/brief")
    whole = {"topic": "harbours", "max_rounds": 7}
    for count, (parts, expected) in enumerate(
        (
            ([Part(data=ParseDict(whole, Value()))], whole),
            ([Part(text=json.dumps(whole))], whole),
            ([Part(text="harbours")], {"topic": "harbours"}),
        ),
        start=1,
    ):
        task = await sent(client, ask(parts=parts, wait=False))
        run = await newest(gateway, count)
        assert (run["run_id"], run["workflow"]) == (task.id, "brief")
        assert json.loads(run["request"])["input"] == expected
        assert isinstance(json.loads(run["request"])["input"].get("max_rounds", 0), int)
    with pytest.raises(InvalidParamsError, match="max_rounds"):
        await sent(client, ask(parts=[Part(data=ParseDict({"topic": "x", "max_rounds": "y"}, Value()))]))
    # A further message is an event of the run.
    further = message("go on", task_id=task.id, message_id="m-2")
    for _ in range(2):
        await sent(client, SendMessageRequest(message=further))
    received = "SELECT body FROM flotilla.event_outbox WHERE body LIKE '%run_event_received%'"
    (event,) = await gateway.rows(received)
    details = json.loads(event["body"])["data"]["details"]
    assert (details["name"], details["data"]) == ("message", {"text": "go on", "data": None})
    await gateway.as_superuser(
        "UPDATE flotilla.runs SET status = 'success', finished_at = now(), output = '{\"pages\": 3}'"
    )
    done = await client.get_task(GetTaskRequest(id=task.id))
    assert MessageToDict(done.artifacts[0].parts[0].data) == {"pages": 3}
    questions = await client_of(key)
    with pytest.raises(TaskNotFoundError):
        await questions.get_task(GetTaskRequest(id=task.id))


async def test_json_beyond_the_protocols_data_is_text_and_keeps_no_listing_from_being_read(
    *, gateway: RunningGateway, client_of: ClientOf, key: str, binding: str
) -> None:
    await publish(gateway)
    client = await client_of(key, "workflows/brief")
    task = await sent(client, ask("harbours", wait=False))
    deep: Any = 1
    for _ in range(60):
        deep = {"a": deep}
    for output in (deep, {"number": 10**400}):
        await gateway.as_superuser(
            f"UPDATE flotilla.runs SET status = 'success', finished_at = now(), output = '{json.dumps(output)}'"
        )
        listed = await client.list_tasks(ListTasksRequest(include_artifacts=True))
        for one in (listed.tasks[0], await client.get_task(GetTaskRequest(id=task.id))):
            (part,) = one.artifacts[0].parts
            assert (json.loads(part.text), part.media_type) == (output, "application/json")
    infinite = '{"messageId": "m", "role": "ROLE_USER", "parts": [{"data": {"topic": "x", "max_rounds": 1e999}}]}'
    body = f'{{"message": {infinite}}}'
    path = "/a2a/workflows/brief/message:send"
    if binding == "JSONRPC":
        path, body = (
            path.removesuffix("/message:send"),
            f'{{"jsonrpc": "2.0", "id": 1, "method": "SendMessage", "params": {body}}}',
        )
    headers = {"A2A-Version": "1.0", "Content-Type": "application/json"}
    answer = await gateway.client(key).post(path, content=body, headers=headers)
    assert answer.json()["error"]["code"] in {400, -32602}, answer.text


async def test_question_of_a_workflow_is_input_required_and_a_message_answers_it(
    gateway: RunningGateway, client_of: ClientOf, key: str
) -> None:
    await publish(gateway)
    client = await client_of(key, "workflows/brief")
    task = await sent(client, ask("harbours", wait=False))
    seen: list[StreamResponse] = []
    reading = asyncio.create_task(collect(client.subscribe(SubscribeToTaskRequest(id=task.id)), seen))
    await eventually(lambda: "SUBMITTED" in states_of(seen))
    await gateway.as_superuser(ADD_QUESTION, "UPDATE flotilla.runs SET status = 'interrupted'")
    await eventually(lambda: "INPUT_REQUIRED" in states_of(seen))
    asking = (await client.get_task(GetTaskRequest(id=task.id))).status
    assert asking.state == TaskState.TASK_STATE_INPUT_REQUIRED
    assert get_message_text(asking.message) == "Which quay?"
    (question,) = MessageToDict(asking.message.parts[1].data)["questions"]
    assert (question["question_id"], question["schema"]["required"]) == ("q-1", ["quay"])
    for state, count in (("INPUT_REQUIRED", 1), ("AUTH_REQUIRED", 0), ("WORKING", 0)):
        listed = await client.list_tasks(ListTasksRequest(status=f"TASK_STATE_{state}"))
        assert (len(listed.tasks), listed.total_size) == (count, count), state
    with pytest.raises(InvalidParamsError, match="quay"):
        await sent(client, ask('{"quay": 5}', task_id=task.id))
    answering = ask("the northern one", task_id=task.id, wait=False)
    for _ in range(2):  # sent twice, it is one answer
        assert (await sent(client, answering)).status.state == TaskState.TASK_STATE_WORKING
    (row,) = await gateway.rows("SELECT status, answer, answered_by FROM flotilla.questions")
    assert (row["status"], json.loads(row["answer"]), row["answered_by"]) == (
        "answered",
        {"quay": "the northern one"},
        "olga",
    )
    # A question that is asked afterwards is not answered by the message that came before.
    await gateway.as_superuser(ADD_QUESTION.replace("q-1", "q-2"))
    assert (await sent(client, answering)).status.state == TaskState.TASK_STATE_INPUT_REQUIRED
    rows = await gateway.rows("SELECT question_id FROM flotilla.questions WHERE status = 'open'")
    assert [row["question_id"] for row in rows] == ["q-2"]
    await set_status(gateway, "running")
    await eventually(lambda: states_of(seen)[-1] == "WORKING")
    reading.cancel()


async def test_only_people_who_are_asked_answer_and_no_message_does_while_people_have_to_decide(
    gateway: RunningGateway, client_of: ClientOf, key: str
) -> None:
    await publish(gateway)
    service = await client_of(await gateway.key("robot", ["operator"]), "workflows/brief")
    task = await sent(service, ask("harbours", wait=False))
    await gateway.as_superuser(ADD_QUESTION, "UPDATE flotilla.runs SET status = 'interrupted'")
    with pytest.raises((A2AError, A2AClientError), match="403"):
        await sent(service, ask("north", task_id=task.id))
    await gateway.as_superuser("UPDATE flotilla.questions SET roles = '{approver}'", SHARED)
    person = await client_of(key, "workflows/brief")
    with pytest.raises((A2AError, A2AClientError), match="403"):
        await sent(person, ask("north", task_id=task.id))
    await gateway.as_superuser("UPDATE flotilla.questions SET roles = '{}'", ADD_QUESTION.replace("q-1", "q-2"))
    with pytest.raises(InvalidParamsError, match=r"name the question; open are q-\d, q-\d"):
        await sent(person, ask("north", task_id=task.id))
    await gateway.as_superuser(ADD_APPROVAL)
    with pytest.raises(UnsupportedOperationError, match="a message is not a vote"):
        await sent(person, ask("north", task_id=task.id))
    rows = await gateway.rows("SELECT status FROM flotilla.questions")
    assert [row["status"] for row in rows] == ["open", "open"]
    await gateway.as_superuser("UPDATE flotilla.approvals SET status = 'rejected'")
    await sent(person, ask("north", task_id=task.id, metadata={"question_id": "q-2"}, wait=False))
    rows = await gateway.rows("SELECT question_id FROM flotilla.questions WHERE status = 'answered'")
    assert [row["question_id"] for row in rows] == ["q-2"]


@pytest.mark.parametrize(
    ("fields", "error"),
    [
        ({"parts": [Part(text=" ")]}, InvalidParamsError),
        ({"parts": [Part(text="a\0b")]}, InvalidParamsError),
        ({"parts": [Part(text="x" * 32_001)]}, InvalidParamsError),
        ({"parts": [Part(raw=b"x", filename="a.png")]}, ContentTypeNotSupportedError),
        ({"parts": [Part(url="https://example.com/a.png")]}, ContentTypeNotSupportedError),
        ({"parts": [Part(data=ParseDict({"a": 1}, Value()))]}, InvalidParamsError),
        ({"role": Role.ROLE_AGENT}, InvalidParamsError),
        ({"context_id": "a/b"}, InvalidParamsError),
        ({"task_id": "nothing"}, TaskNotFoundError),
        ({"message_id": ""}, InvalidParamsError),
    ],
)
async def test_what_a_fleet_can_not_take_is_an_error_of_the_protocol(
    gateway: RunningGateway, client: Client, fields: dict[str, Any], error: type[A2AError]
) -> None:
    with pytest.raises(error):
        await sent(client, ask(**fields))
    assert await gateway.rows("SELECT 1 FROM flotilla.runs") == []


async def test_other_tenants_other_people_and_other_roles_are_kept_out(
    gateway: RunningGateway, client: Client, client_of: ClientOf, key: str
) -> None:
    task = await sent(client, ask(wait=False))
    calls: tuple[Callable[[Client], Awaitable[object]], ...] = (
        lambda one: one.get_task(GetTaskRequest(id=task.id)),
        lambda one: one.cancel_task(CancelTaskRequest(id=task.id)),
        lambda one: sent(one, ask(task_id=task.id)),
        lambda one: collect(one.subscribe(SubscribeToTaskRequest(id=task.id)), []),
        lambda one: one.list_task_push_notification_configs(ListTaskPushNotificationConfigsRequest(task_id=task.id)),
    )
    globex = await client_of(await gateway.key("olga", ["admin"], tenant="globex", person=True))
    mallory = await client_of(await gateway.key("mallory", ["operator"], person=True))
    for stranger in (globex, mallory):
        for call in calls:
            with pytest.raises(TaskNotFoundError):
                await call(stranger)
        assert (await stranger.list_tasks(ListTasksRequest())).total_size == 0
    with pytest.raises((A2AError, httpx.HTTPError)):
        await sent(mallory, ask(context_id=task.context_id))
    viewer = await client_of(await gateway.key("vera", ["viewer"], person=True))
    for call in (calls[1], calls[2]):
        with pytest.raises((A2AClientError, A2AError), match=r"403|role"):
            await call(viewer)
    assert (await viewer.list_tasks(ListTasksRequest())).total_size == 0


async def test_unknown_agents_and_wrong_keys_are_http_errors(gateway: RunningGateway, key: str) -> None:
    http = gateway.client(key)
    body = {"jsonrpc": "2.0", "id": 1, "method": "GetTask", "params": {"id": "x"}}
    for path in ("workflows/none", "agents/none"):
        answer = await http.post(f"/a2a/{path}", json=body, headers={"A2A-Version": "1.0"})
        assert (answer.status_code, answer.json()["error"]["status"]) == (404, "NOT_FOUND")
    answer = await gateway.client("flo_wrong").post("/a2a/workflows/rag", json=body)
    assert (answer.status_code, answer.json()["error"]["status"]) == (401, "UNAUTHENTICATED")
    for content, code in (
        (b"{", -32700),
        (b"[]", -32600),
        (b'{"jsonrpc": "2.0", "id": 1, "method": "No"}', -32601),
        (b'{"jsonrpc": "2.0", "id": 1, "method": ["GetTask"]}', -32600),
    ):
        answer = await http.post(
            "/a2a/workflows/rag/", content=content, headers={"A2A-Version": "1.0", "Content-Type": "application/json"}
        )
        assert (answer.status_code, answer.json()["error"]["code"]) == (200, code), content


async def test_cards_are_public_for_questions_extended_for_callers_and_signed(
    replica: Replica, tmp_path: Path, key: str, gateway: RunningGateway
) -> None:
    await publish(gateway)
    private, other = tmp_path / "cards.pem", tmp_path / "other.pem"
    for file in (private, other):
        create_key_pair(file, file.with_suffix(".pub"))
    assert "PRIVATE" not in repr(AgentCardKey.load(private))
    async with replica(card_signing_key_file=private, public_url="https://fleet.example.com") as signing:
        anonymous = signing.client()
        keys = (await anonymous.get("/.well-known/jwks.json")).json()["keys"]
        verify = create_signature_verifier(lambda kid, _jku: _key(keys, kid), ["EdDSA"])
        card = await A2ACardResolver(anonymous, signing.url).get_agent_card(signature_verifier=verify)
        assert card.name == "rag"
        assert {one.url for one in card.supported_interfaces} == {"https://fleet.example.com/a2a/workflows/rag"}
        assert [skill.name for skill in card.skills] == ["rag"]
        same = await A2ACardResolver(anonymous, f"{signing.url}/a2a/workflows/rag").get_agent_card()
        assert same == card
        card.description = "Transfers money."
        with pytest.raises(InvalidSignaturesError):
            verify(card)
        assert (await anonymous.get("/a2a/workflows/brief/.well-known/agent-card.json")).status_code == 401
        known = signing.client(key)
        brief = await A2ACardResolver(known, f"{signing.url}/a2a/workflows/brief").get_agent_card(
            signature_verifier=verify
        )
        assert (brief.name, brief.description, list(brief.capabilities.extensions)) == ("brief", "Write a brief.", [])
    config = ClientConfig(httpx_client=gateway.client(key), supported_protocol_bindings=["JSONRPC", "HTTP+JSON"])
    async with await create_client(f"{gateway.url}/a2a/workflows/brief", config) as client:
        extended = await client.get_extended_agent_card(GetExtendedAgentCardRequest())
    schemas = MessageToDict(extended.capabilities.extensions[0].params)
    assert schemas["input"]["required"] == ["topic"]
    assert {"brief", "rag"} <= {skill.name for skill in extended.skills}


async def test_keys_that_signed_before_stay_listed(replica: Replica, tmp_path: Path) -> None:
    private, former = tmp_path / "cards.pem", tmp_path / "former.pem"
    ids = [create_key_pair(file, file.with_suffix(".pub")) for file in (private, former)]
    options = {"card_public_keys_file": former.with_suffix(".pub"), "public_url": "https://fleet.example.com"}
    async with replica(card_signing_key_file=private, **options) as rotated:
        anonymous = rotated.client()
        keys = (await anonymous.get("/.well-known/jwks.json")).json()["keys"]
        assert [one["kid"] for one in keys] == ids
        verify = create_signature_verifier(lambda kid, _jku: _key(keys, kid), ["EdDSA"])
        card = await A2ACardResolver(anonymous, rotated.url).get_agent_card(signature_verifier=verify)
        assert {one["kid"] for one in keys if _signed_by(card, one)} == {ids[0]}


def _signed_by(card: AgentCard, key: dict[str, str]) -> bool:
    try:
        create_signature_verifier(lambda _kid, _jku: PyJWK(key), ["EdDSA"])(card)
    except InvalidSignaturesError:
        return False
    return True


def _key(keys: list[dict[str, str]], kid: str | None) -> PyJWK:
    (found,) = [one for one in keys if one["kid"] == kid]
    return PyJWK(found)


async def test_receivers_are_kept_per_task_on_listed_hosts_without_their_tokens(
    replica: Replica, client_of: ClientOf, key: str, gateway: RunningGateway
) -> None:
    nobody = await client_of(key)
    task = await sent(nobody, ask(wait=False))
    config = partial(TaskPushNotificationConfig, task_id=task.id, url=HOOK)
    with pytest.raises(A2AError):
        await nobody.create_task_push_notification_config(config(id="one"))
    async with replica(notify_hosts=("http://127.0.0.1:9",)) as notifying:
        client = await client_of(key, at=notifying)
        for _ in range(2):
            made = await client.create_task_push_notification_config(config(id="one", token="t-1"))
        assert (made.id, made.url) == ("one", HOOK)
        await client.create_task_push_notification_config(config(id="two"))
        of_task = ListTaskPushNotificationConfigsRequest(task_id=task.id)
        listed = await client.list_task_push_notification_configs(of_task)
        assert [(one.id, one.token) for one in listed.configs] == [("one", ""), ("two", "")]
        await client.delete_task_push_notification_config(
            DeleteTaskPushNotificationConfigRequest(task_id=task.id, id="two")
        )
        with pytest.raises(A2AError):
            await client.get_task_push_notification_config(
                GetTaskPushNotificationConfigRequest(task_id=task.id, id="two")
            )
        with pytest.raises((A2AError, A2AClientError), match=r"403|not on the list"):
            await client.create_task_push_notification_config(config(url="http://169.254.169.254/latest"))
        with pytest.raises(InvalidParamsError):
            await client.create_task_push_notification_config(config(token="a\r\nX: y"))
        with pytest.raises(InvalidParamsError, match="at most 2000"):
            await client.create_task_push_notification_config(config(token="x" * 2001))
        with pytest.raises(InvalidParamsError, match="url"):
            await client.create_task_push_notification_config(config(url=HOOK + "x" * 2000))
        for name in ("globex.hooks", "../a2a", ""):  # the file of acme.globex's secret hooks is acme.globex.hooks
            signed = AuthenticationInfo(scheme="standard-webhooks", credentials=name)
            with pytest.raises(InvalidParamsError):
                await client.create_task_push_notification_config(config(authentication=signed))
        adding = [client.create_task_push_notification_config(config(id=f"more-{number}")) for number in range(20)]
        added = [one for one in await asyncio.gather(*adding, return_exceptions=True) if not isinstance(one, Exception)]
        assert len(added) == 9
        with pytest.raises(UnsupportedOperationError, match="10 receivers"):
            await client.create_task_push_notification_config(config(id="eleventh"))
        again = [client.create_task_push_notification_config(config(id="one")) for _ in range(5)]
        assert {one.id for one in await asyncio.gather(*again)} == {"one"}
        with_first = ask(wait=False)
        with_first.configuration.task_push_notification_config.CopyFrom(TaskPushNotificationConfig(id="x", url=HOOK))
        await sent(client, with_first)
        assert len(await gateway.rows("SELECT 1 FROM flotilla.a2a_receivers WHERE config_id = 'x'")) == 1
