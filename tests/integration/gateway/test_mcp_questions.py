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

from gateway.mcp.elicitation import form_of
from tests.integration.gateway.conftest import Replica
from tests.integration.gateway.test_questions import worker
from tests.support.gateway import RunningGateway
from tests.support.waiting import eventually
from tests.support.worker import RunningWorker

__all__ = ["worker"]
NORTH = {"supplier": "North", "cents": 5}
CHOOSE = "workflow__choose"


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
    assert [one.message for one in user.asked] == ["Which supplier?"] * 2  # the first answer lacks the supplier
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
    ],
)
def test_what_a_form_cannot_hold_is_no_form(schema: dict[str, Any]) -> None:
    assert form_of(schema) is None
