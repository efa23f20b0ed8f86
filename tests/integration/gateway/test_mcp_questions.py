"""Questions of a workflow that was called at `/mcp`: asked of the client's user, where that may answer."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx2
import pytest
from mcp import Client, MCPError
from mcp.client.streamable_http import streamable_http_client
from mcp_types import CallToolResult, ElicitRequestFormParams, ElicitResult, InputRequiredResult

from gateway.mcp.door import TASKS
from gateway.mcp.elicitation import MOST_MISFITS, form_of
from tests.integration.gateway.conftest import Replica
from tests.integration.gateway.test_questions import worker
from tests.support.gateway import RunningGateway
from tests.support.waiting import eventually
from tests.support.worker import RunningWorker

__all__ = ["worker"]
NORTH = {"supplier": "North", "cents": 5}
CHOOSE = "workflow__choose"
VERSION = "2026-07-28"


@pytest.fixture
async def gateway(replica: Replica) -> AsyncIterator[RunningGateway]:
    """Which lets a client wait for three seconds."""
    async with replica(mcp_wait_s=3.0) as running:
        yield running


@dataclass
class User:
    """Who sits at the client: what they were asked, and what they answer, the last for good."""

    answers: list[ElicitResult]
    asked: list[ElicitRequestFormParams] = field(default_factory=list)

    async def __call__(self, context: Any, params: Any) -> ElicitResult:
        self.asked.append(params)
        return self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]


def accepted(**content: Any) -> ElicitResult:
    return ElicitResult(action="accept", content=content)


@asynccontextmanager
async def client(
    gateway: RunningGateway, user: User | None, subject: str = "alice", *, person: bool = True
) -> AsyncIterator[Client]:
    """The SDK's client, unchanged; without a user it shows no forms."""
    key = await gateway.key(subject, ("operator",), person=person)
    async with httpx2.AsyncClient(headers={"Authorization": f"Bearer {key}"}, timeout=60, trust_env=False) as http:
        transport = streamable_http_client(f"{gateway.url}/mcp", http_client=http)
        async with Client(transport, mode="2026-07-28", elicitation_callback=user) as mcp:
            yield mcp


async def chosen(mcp: Client, **arguments: Any) -> CallToolResult:
    """Call the workflow, once the worker has published it."""

    async def there() -> bool:
        return CHOOSE in {tool.name for tool in (await mcp.list_tools()).tools}

    await eventually(there, timeout_s=20)
    return await mcp.call_tool(CHOOSE, {"roles": [], **arguments})


async def open_questions(gateway: RunningGateway, status: str = "open") -> list[dict[str, Any]]:
    alice = await gateway.client_of("alice", "operator", person=True)
    found: list[dict[str, Any]] = (await alice.get("/v1/questions", params={"status": status})).json()["questions"]
    return found


async def test_a_question_is_asked_of_the_user_and_the_call_goes_on_with_the_answer(
    gateway: RunningGateway, worker: RunningWorker
) -> None:
    user = User([accepted(cents=5), accepted(**NORTH)])
    async with client(gateway, user) as mcp:
        result = await chosen(mcp)
    assert result.structured_content == {"supplier": "North", "how": "answered"}
    first, second = (one.message for one in user.asked)  # the first answer lacks the supplier
    assert first == "Which supplier?"
    assert second == "Which supplier?\n\nYour last answer did not fit what is asked for."
    form = user.asked[0].requested_schema
    assert {name: one["type"] for name, one in form["properties"].items()} == {"supplier": "string", "cents": "integer"}
    [question] = await open_questions(gateway, "answered")
    assert (question["answered_by"], question["answer"]) == ("alice", NORTH)


async def test_who_declines_is_not_asked_again_and_the_question_stays_open(
    gateway: RunningGateway, worker: RunningWorker
) -> None:
    user = User([ElicitResult(action="decline")])
    async with client(gateway, user) as mcp:
        result = await chosen(mcp)
    assert (result.structured_content or {})["status"] == "waiting"
    assert len(user.asked) == 1
    assert len(await open_questions(gateway)) == 1


@pytest.mark.parametrize(
    ("roles", "is_person", "has_user"),
    [(["approver"], True, True), ([], False, True), ([], True, False)],
    ids=["for other people", "a service", "a client without forms"],
)
async def test_nobody_is_asked_who_may_not_answer(
    gateway: RunningGateway, worker: RunningWorker, roles: list[str], is_person: bool, has_user: bool
) -> None:
    user = User([accepted(**NORTH)])
    async with client(gateway, user if has_user else None, person=is_person) as mcp:
        result = await chosen(mcp, roles=roles)
    assert (result.structured_content or {})["status"] == "waiting"
    assert user.asked == []


async def test_a_state_continues_an_equal_call_of_the_same_caller_only(
    gateway: RunningGateway, worker: RunningWorker
) -> None:
    async with client(gateway, User([accepted(**NORTH)])) as mcp:
        await mcp.list_tools()
        await chosen_state(mcp)
        state = await chosen_state(mcp)
        with pytest.raises(MCPError, match="requestState"):
            await mcp.session.call_tool(CHOOSE, {"roles": ["admin"]}, request_state=state, allow_input_required=True)
        with pytest.raises(MCPError, match="requestState"):
            await mcp.session.call_tool(CHOOSE, {"roles": []}, request_state=state + "x", allow_input_required=True)
    async with client(gateway, User([accepted(**NORTH)]), "bob") as other:
        await other.list_tools()
        with pytest.raises(MCPError, match="requestState"):
            await other.session.call_tool(CHOOSE, {"roles": []}, request_state=state, allow_input_required=True)
    assert len(await open_questions(gateway)) == 1


async def test_the_same_call_again_is_a_new_one_once_a_form_has_led_to_its_answer(
    gateway: RunningGateway, worker: RunningWorker
) -> None:
    user = User([accepted(**NORTH), accepted(supplier="South", cents=6)])
    async with client(gateway, user) as mcp:
        assert (await chosen(mcp)).structured_content == {"supplier": "North", "how": "answered"}
        assert (await chosen(mcp)).structured_content == {"supplier": "South", "how": "answered"}
    assert len(user.asked) == 2


async def test_a_user_whose_answers_do_not_fit_is_asked_five_times(
    gateway: RunningGateway, worker: RunningWorker
) -> None:
    user = User([accepted(cents=5)])
    async with client(gateway, user) as mcp:
        result = await chosen(mcp)
    assert (result.structured_content or {})["status"] == "waiting"
    assert len(user.asked) == MOST_MISFITS
    assert len(await open_questions(gateway)) == 1


@dataclass
class TaskClient:
    """One that knows the tasks extension and shows forms, in the protocol's own words."""

    gateway: RunningGateway
    key: str
    capabilities: dict[str, Any] = field(default_factory=lambda: {"extensions": {TASKS: {}}, "elicitation": {}})

    async def send(self, method: str, target: str, **params: Any) -> dict[str, Any]:
        meta = {
            "io.modelcontextprotocol/protocolVersion": VERSION,
            "io.modelcontextprotocol/clientCapabilities": self.capabilities,
        }
        body = {"jsonrpc": "2.0", "id": 1, "method": method, "params": {**params, "_meta": meta}}
        headers = {
            "Accept": "application/json, text/event-stream",
            "MCP-Protocol-Version": VERSION,
            "Mcp-Method": method,
            "Mcp-Name": target,
        }
        answer: dict[str, Any] = (await self.gateway.client(self.key).post("/mcp", json=body, headers=headers)).json()
        return answer

    async def create(self, roles: list[str]) -> str:
        """Call the workflow; return the id of the task that the call is."""
        without_forms = TaskClient(self.gateway, self.key, {"extensions": {TASKS: {}}})

        async def created() -> str | None:
            answer = await without_forms.send("tools/call", CHOOSE, name=CHOOSE, arguments={"roles": roles})
            return str(answer["result"]["taskId"]) if "result" in answer else None

        return str(await eventually(created, timeout_s=20))

    async def get(self, task_id: str) -> dict[str, Any]:
        task: dict[str, Any] = (await self.send("tasks/get", task_id, taskId=task_id))["result"]
        return task

    async def until(self, task_id: str, status: str) -> dict[str, Any]:
        async def there() -> dict[str, Any] | None:
            task = await self.get(task_id)
            return task if task["status"] == status else None

        task: dict[str, Any] = await eventually(there, timeout_s=20)
        return task

    async def update(self, task_id: str, **responses: Any) -> dict[str, Any]:
        return await self.send("tasks/update", task_id, taskId=task_id, inputResponses=responses)


@pytest.fixture
async def tasks(gateway: RunningGateway, worker: RunningWorker) -> TaskClient:
    """Alice's."""
    return TaskClient(gateway, await gateway.key("alice", ("operator",), person=True))


async def test_a_task_asks_for_input_and_goes_on_with_the_answer(tasks: TaskClient) -> None:
    task_id = await tasks.create([])
    waiting = await tasks.until(task_id, "input_required")
    [(first, asked)] = waiting["inputRequests"].items()
    assert (asked["method"], asked["params"]["message"]) == ("elicitation/create", "Which supplier?")
    assert set(asked["params"]["requestedSchema"]["properties"]) == {"supplier", "cents"}
    assert waiting["resultType"] == "complete"

    unknown = {"unknown": {"action": "accept", "content": NORTH}, "x.1": {"action": "decline"}}
    assert (await tasks.update(task_id, **unknown))["result"]["resultType"] == "complete"
    assert (await tasks.get(task_id))["inputRequests"] == waiting["inputRequests"]

    await tasks.update(task_id, **{first: {"action": "accept", "content": {"cents": 5}}})
    [second] = (await tasks.get(task_id))["inputRequests"]
    assert second != first, "a key that was answered is used for no other request"
    await tasks.update(task_id, **{first: {"action": "accept", "content": NORTH}})
    assert set((await tasks.get(task_id))["inputRequests"]) == {second}

    await tasks.update(task_id, **{second: {"action": "accept", "content": NORTH}})
    done = await tasks.until(task_id, "completed")
    assert done["result"]["structuredContent"] == {"supplier": "North", "how": "answered"}
    assert "inputRequests" not in done


async def test_a_task_whose_question_is_declined_is_working_and_says_where_to_answer(tasks: TaskClient) -> None:
    task_id = await tasks.create([])
    [key] = (await tasks.until(task_id, "input_required"))["inputRequests"]
    await tasks.update(task_id, **{key: {"action": "decline"}})
    now = await tasks.get(task_id)
    assert (now["status"], "inputRequests" in now) == ("working", False)
    assert now["statusMessage"].endswith("/questions.")
    assert len(await open_questions(tasks.gateway)) == 1


async def test_a_task_asks_nobody_who_may_not_answer(tasks: TaskClient) -> None:
    task_id = await tasks.create(["approver"])

    async def is_asked() -> bool:
        return len(await open_questions(tasks.gateway)) == 1

    await eventually(is_asked, timeout_s=20)
    [question] = await open_questions(tasks.gateway)
    assert (await tasks.get(task_id))["status"] == "working"
    await tasks.update(task_id, **{f"{question['question_id']}.1": {"action": "accept", "content": NORTH}})
    assert len(await open_questions(tasks.gateway)) == 1
    other = TaskClient(tasks.gateway, await tasks.gateway.key("bob", ("operator",), person=True))
    refused = await other.update(task_id, x={"action": "accept", "content": NORTH})
    assert "no task" in refused["error"]["message"]


async def test_a_prompt_asks_the_user_once_for_what_it_takes(gateway: RunningGateway) -> None:
    user = User([accepted(question="When is the lamp lit?"), ElicitResult(action="decline")])
    async with client(gateway, user) as mcp:
        [message] = (await mcp.get_prompt("answer_from_documents")).messages
        assert "When is the lamp lit?" in message.content.text  # type: ignore[union-attr]
        with pytest.raises(MCPError, match="takes question"):
            await mcp.get_prompt("answer_from_documents")
    assert [one.requested_schema["required"] for one in user.asked] == [["question"]] * 2
    async with client(gateway, None) as mcp:
        with pytest.raises(MCPError, match="takes question"):
            await mcp.get_prompt("answer_from_documents")


async def chosen_state(mcp: Client) -> str:
    """The state of a call that asks; the same call again asks the same."""

    async def there() -> bool:
        return CHOOSE in {tool.name for tool in (await mcp.list_tools()).tools}

    await eventually(there, timeout_s=20)
    asked = await mcp.session.call_tool(CHOOSE, {"roles": []}, allow_input_required=True)
    assert isinstance(asked, InputRequiredResult)
    return str(asked.request_state)


@pytest.mark.parametrize(
    "schema",
    [
        {},
        {"type": "object", "properties": {}},
        {"properties": {"a": {"type": "object"}}},
        {"properties": {"a": {"type": "array", "items": {"type": "string"}}}},
        {"properties": {"a": {"anyOf": [{"type": "string"}, {"type": "null"}]}}},
        {"properties": {"a": {"type": "string"}, "b": {"$ref": "#/$defs/B"}}},
        {"properties": {"a": {"type": ["string", "null"]}}},
        {"$ref": "#/$defs/A"},
        {"properties": {"a": {"type": "string"}}, "required": ["a", "b"]},
        {"properties": {"a": {"type": "string"}}, "required": "a"},
        {"properties": {"a": {"type": "string"}}, "minProperties": 2},
        {"properties": {"a": {"type": "string"}}, "allOf": [{"required": ["b"]}]},
        {"properties": {"a": {"type": "string"}}, "patternProperties": {"^b": {"type": "string"}}},
    ],
)
def test_what_a_form_cannot_hold_is_no_form(schema: dict[str, Any]) -> None:
    assert form_of(schema) is None


def test_a_form_says_what_is_asked_of_a_field() -> None:
    fields: dict[str, Any] = {
        "code": {"type": "string", "description": "The supplier's.", "pattern": "^[A-Z]+$"},
        "cents": {"type": "integer", "minimum": 1, "multipleOf": 5},
        "note": {"type": "string", "title": "Note"},
    }
    form = form_of({"type": "object", "title": "Choice", "properties": fields, "required": ["code"]})
    assert form == {
        "type": "object",
        "properties": {
            "code": {"type": "string", "description": 'The supplier\'s. (pattern: "^[A-Z]+$")'},
            "cents": {"type": "integer", "minimum": 1, "description": "(multipleOf: 5)"},
            "note": {"type": "string", "title": "Note"},
        },
        "required": ["code"],
    }
