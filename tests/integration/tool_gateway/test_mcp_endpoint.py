"""`/mcp` of the gateway, called by the MCP SDK's own client: governed tools, agents, and what may be read."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import httpx2
import pytest
from mcp import Client, MCPError
from mcp.client import advertise
from mcp.client.extension import ClientExtension
from mcp.client.streamable_http import streamable_http_client
from mcp_types import CallToolResult, Request, RequestParams, Result
from pydantic import ConfigDict

from flotilla.agent import Agent, TaskContext
from flotilla.contracts.tasks import ResearchTask
from tests.integration.tool_gateway.conftest import Desk
from tests.support.agents import running
from tests.support.gateway import RunningGateway, make_topics, running_gateway
from tests.support.postgres import Database
from tests.support.waiting import eventually
from tests.support.worker import RunningWorker, running_worker

TASKS = "io.modelcontextprotocol/tasks"
POLICY = """
version = "test"
extends = "builtin:production"

[risk.high]
signature = "none"
quorum = 2

[actions."mcp.desk.add"]
risk = "low"
"""
MODES = ["legacy", "2026-07-28"]


@dataclass
class House:
    """A gateway, a worker and a tool gateway at work."""

    gateway: RunningGateway
    worker: RunningWorker
    desk: Desk
    caught: list[str] = field(default_factory=list)

    async def key(self, subject: str = "olga", *roles: str, person: bool = True, tenant: str = "acme") -> str:
        return await self.gateway.key(subject, roles or ("operator",), tenant=tenant, person=person)

    @asynccontextmanager
    async def client(
        self, key: str, mode: str = "2026-07-28", *, extensions: Sequence[ClientExtension] = (), **headers: str
    ) -> AsyncIterator[Client]:
        """The SDK's client, unchanged."""
        sent = {"Authorization": f"Bearer {key}", **headers}
        async with httpx2.AsyncClient(headers=sent, timeout=60, trust_env=False) as http:
            transport = streamable_http_client(f"{self.gateway.url}/mcp", http_client=http)
            async with Client(transport, mode=mode, extensions=extensions) as client:
                yield client

    async def approve(self, *people: str) -> None:
        """Let people approve what waits, once it does."""
        for person in people:
            api = await self.gateway.client_of(person, "approver", person=True)

            async def waiting(api: httpx.AsyncClient = api) -> list[dict[str, Any]]:
                found: list[dict[str, Any]] = (await api.get("/v1/approvals?status=pending")).json()["approvals"]
                return found

            [approval] = await eventually(waiting, timeout_s=30)
            vote = {"decision": "approve", "content_hash": approval["content_hash"]}
            answer = await api.post(f"/v1/approvals/{approval['approval_id']}/decision", json=vote)
            assert answer.status_code == 200, answer.text


@pytest.fixture
def wait_s() -> float:
    """How long the gateway lets a client wait."""
    return 20.0


@pytest.fixture
async def house(
    *,
    desk: Desk,
    database: Database,
    redis_url: str,
    kafka_bootstrap: str,
    temporal_address: str,
    unique: Callable[[str], str],
    tmp_path: Path,
    wait_s: float,
) -> AsyncIterator[House]:
    policy = tmp_path / "worker-policy.toml"
    policy.write_text(POLICY, "utf-8")
    queue = unique("queue")
    await desk.allow_all("acme")
    async with (
        running_gateway(
            database=database,
            redis_url=redis_url,
            kafka_bootstrap=kafka_bootstrap,
            temporal_address=temporal_address,
            task_queue=queue,
            approval_policy=str(policy),
            mcp_wait_s=wait_s,
            session_visibility="tenant",
            **await make_topics(kafka_bootstrap),
        ) as gateway,
        running_worker(
            dsn=database.dsn("flotilla_worker"),
            pool=desk.pool,
            redis_url=redis_url,
            temporal_address=temporal_address,
            task_queue=queue,
            policy=str(policy),
            agents=("mcp", "adder"),
        ) as worker,
    ):
        yield House(gateway, worker, desk)


def text(result: CallToolResult) -> str:
    return "".join(block.text for block in result.content if block.type == "text")


@dataclass(frozen=True)
class Sum:
    sum: int


def adder() -> Agent:
    """An agent that calls a tool."""
    agent = Agent("adder", mcp=("desk",))

    @agent.task
    async def add(ctx: TaskContext, task: ResearchTask) -> Sum:
        """Adds."""
        answer = await ctx.tool("mcp__desk__add", a=int(task.query), b=1)
        return Sum(sum=answer["result"])

    return agent


REGISTER = """
INSERT INTO flotilla_ops.agents (name, instance, version, stream, consumer_group, concurrency, input_schema,
    output_schema)
VALUES ('adder', 'a1', '1', 's', 'g', 1, '{"type": "object", "properties": {"query": {"type": "string"}}}', '{}')
"""


@pytest.mark.parametrize("mode", MODES)
async def test_a_client_lists_and_calls_what_the_tenant_allows(house: House, mode: str) -> None:
    await house.gateway.as_superuser(REGISTER)
    async with (
        running(adder(), house.worker.pool, house.worker.redis),
        house.client(await house.key(), mode) as client,
    ):
        tools = {tool.name: tool for tool in (await client.list_tools()).tools}
        assert {"mcp__desk__add", "mcp__desk__wipe", "agent__adder", "workflow__rag", "search_knowledge_base"} <= set(
            tools
        )
        assert tools["mcp__desk__add"].input_schema["properties"]["a"]["type"] == "integer"
        assert "query" in tools["agent__adder"].input_schema["properties"]
        first = await client.call_tool("mcp__desk__add", {"a": 1, "b": 2})
        assert (first.is_error, first.structured_content) == (False, {"result": 3})
        asked = await client.call_tool("agent__adder", {"query": "41"})
        assert (asked.is_error, asked.structured_content) == (False, {"sum": 42})
        assert house.desk.calls() == ["add 1 2", "add 41 1"]
        wrong = await client.call_tool("mcp__desk__add", {"a": "one", "b": 2})
        assert wrong.is_error, text(wrong)
        with pytest.raises(MCPError, match="no tool"):
            await client.call_tool("mcp__desk__none", {})


async def test_an_answer_that_was_sent_is_not_kept_for_the_next_call(house: House) -> None:
    async with house.client(await house.key()) as client:
        for _ in range(2):
            await client.call_tool("mcp__desk__add", {"a": 1, "b": 2})
        key: Any = {"io.flotilla/idempotency-key": "k-1"}
        for _ in range(2):
            await client.call_tool("mcp__desk__add", {"b": 2, "a": 1}, meta=key)
    assert house.desk.calls() == ["add 1 2"] * 3


async def test_a_call_is_new_where_the_row_of_the_one_before_is_not_closed_yet(house: House) -> None:
    async with house.client(await house.key()) as client:
        await client.call_tool("mcp__desk__add", {"a": 1, "b": 2})
        await house.gateway.as_superuser("UPDATE flotilla.pipelines SET status = 'running', finished_at = NULL")
        await client.call_tool("mcp__desk__add", {"a": 1, "b": 2})
    assert house.desk.calls() == ["add 1 2"] * 2


@pytest.mark.parametrize("mode", MODES)
async def test_a_call_waits_for_two_people_and_the_client_sees_who_decides(house: House, mode: str) -> None:
    said: list[str] = []

    async def on_progress(progress: float, total: float | None, message: str | None) -> None:
        said.append(message or "")

    async with house.client(await house.key(), mode) as client:
        calling = asyncio.create_task(
            client.call_tool("mcp__desk__wipe", {"path": "/desk"}, progress_callback=on_progress)
        )
        await eventually(lambda: any("2 people" in one for one in said), timeout_s=30)
        assert house.desk.calls() == []
        await house.approve("bob", "carol")
        result = await calling
    assert (result.is_error, text(result)) == (False, "wiped /desk")
    assert house.desk.calls() == ["wipe /desk"]
    [message] = [one for one in said if "2 people" in one][:1]
    assert "approver" in message
    assert f"{house.gateway.url}/approvals/" in message


class TestCallAgain:
    """Without tasks, a client is asked to call again."""

    @pytest.fixture
    def wait_s(self) -> float:
        return 0.5

    async def test_the_same_call_again_gets_the_same_stored_answer(self, house: House) -> None:
        key = await house.key()

        async def call(key: str, path: str = "/desk") -> CallToolResult:
            async with house.client(key, "legacy") as client:
                return await client.call_tool("mcp__desk__wipe", {"path": path})

        async def waiting(key: str, path: str = "/desk") -> dict[str, Any]:
            async def asked() -> dict[str, Any] | None:
                found = (await call(key, path)).structured_content
                return found if found and found["approvals"] else None

            return await eventually(asked, timeout_s=30)

        first, again = await waiting(key), await waiting(key)
        assert first["task_id"] == again["task_id"]
        assert first["approvals"][0]["quorum"] == 2
        somebody_else = await house.key("ulf")
        assert (await call(somebody_else)).structured_content["task_id"] != first["task_id"]
        api = await house.gateway.client_of("ulf", "operator", person=True)
        others = [one["task_id"] for one in (await api.get("/v1/tasks?user_id=ulf")).json()["tasks"]]
        for one in others:
            await api.post(f"/v1/tasks/{one}/cancel")
        await self._until_one_waits(api)
        await house.approve("bob", "carol")

        async def answered() -> CallToolResult | None:
            result = await call(key)
            return result if text(result) == "wiped /desk" else None

        await eventually(answered, timeout_s=30)
        assert text(await call(key)) == "wiped /desk"
        assert house.desk.calls() == ["wipe /desk"]

    async def _until_one_waits(self, api: httpx.AsyncClient) -> None:
        async def one() -> bool:
            return len((await api.get("/v1/approvals?status=pending")).json()["approvals"]) == 1

        await eventually(one, timeout_s=30)


class GetTask(Request[RequestParams, Any]):
    """`tasks/get`, `tasks/cancel`."""

    method: str
    params: Any


async def ask_task(client: Client, method: str, task_id: str) -> dict[str, Any]:
    answer = await client.session.send_request(
        GetTask(method=method, params={"taskId": task_id}),
        AnyResult,
    )
    return answer.model_dump(by_alias=True)


class AnyResult(Result):
    model_config = ConfigDict(extra="allow")


async def created_task(house: House, key: str, path: str) -> dict[str, Any]:
    """What the protocol's own words are: a call by a client that knows tasks."""
    api = house.gateway.client(key)
    version = "2026-07-28"
    meta = {
        "io.modelcontextprotocol/protocolVersion": version,
        "io.modelcontextprotocol/clientCapabilities": {"extensions": {TASKS: {}}},
    }
    params = {"name": "mcp__desk__wipe", "arguments": {"path": path}, "_meta": meta}
    headers = {
        "Accept": "application/json, text/event-stream",
        "MCP-Protocol-Version": version,
        "Mcp-Method": "tools/call",
        "Mcp-Name": "mcp__desk__wipe",
    }
    body = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params}
    answer = await api.post("/mcp", json=body, headers=headers)
    assert answer.status_code == 200, answer.text
    result: dict[str, Any] = answer.json()["result"]
    return result


async def test_a_call_is_a_task_for_a_client_that_knows_tasks(house: House) -> None:
    key = await house.key()
    task = await created_task(house, key, "/desk")
    assert (task["resultType"], task["status"]) == ("task", "working")
    async with house.client(key, extensions=[advertise(TASKS)]) as client:

        async def says_who() -> bool:
            now = await ask_task(client, "tasks/get", task["taskId"])
            return now["status"] == "working" and "2 people" in now.get("statusMessage", "")

        await eventually(says_who, timeout_s=30)
        await house.approve("bob", "carol")

        async def over() -> dict[str, Any] | None:
            now = await ask_task(client, "tasks/get", task["taskId"])
            return now if now["status"] == "completed" else None

        done = await eventually(over, timeout_s=30)
        assert done["result"]["content"][0]["text"] == "wiped /desk"
        with pytest.raises(MCPError, match="no task"):
            await ask_task(client, "tasks/get", "unknown")
    async with house.client(key) as unaware:
        with pytest.raises(MCPError, match="Missing required client capability"):
            await ask_task(unaware, "tasks/get", task["taskId"])
    async with house.client(await house.key("ulf"), extensions=[advertise(TASKS)]) as other:
        with pytest.raises(MCPError, match="no task"):
            await ask_task(other, "tasks/get", task["taskId"])
    assert house.desk.calls() == ["wipe /desk"]


async def ended(house: House, key: str, status: str) -> None:
    api = house.gateway.client(key)

    async def has() -> bool:
        [task] = (await api.get("/v1/tasks?user_id=olga")).json()["tasks"]
        return bool(task["status"] == status)

    await eventually(has, timeout_s=30)


async def test_tasks_cancel_cancels_the_call(house: House) -> None:
    key = await house.key()
    task = await created_task(house, key, "/desk")
    async with house.client(key, extensions=[advertise(TASKS)]) as client:
        await ask_task(client, "tasks/cancel", task["taskId"])
    await ended(house, key, "cancelled")


@pytest.mark.parametrize("mode", MODES)
async def test_a_request_that_its_client_cancels_is_a_cancelled_call(house: House, mode: str) -> None:
    key = await house.key()
    waits = asyncio.Event()

    async def on_progress(progress: float, total: float | None, message: str | None) -> None:
        waits.set()

    async with house.client(key, mode) as client:
        calling = asyncio.create_task(
            client.call_tool("mcp__desk__wipe", {"path": "/desk"}, progress_callback=on_progress)
        )
        await asyncio.wait_for(waits.wait(), 30)
        calling.cancel()
        await ended(house, key, "cancelled")
    assert house.desk.calls() == []


async def test_what_is_read_is_what_the_api_shows_the_caller(house: House) -> None:
    olga = await house.key("olga")
    viewer = await house.key("vic", "viewer")
    stranger = await house.key("sam", "operator", tenant="other")
    meta: Any = {"io.flotilla/session": "sums"}
    async with house.client(olga) as client:
        done = await client.call_tool(
            "mcp__desk__add",
            {"a": 1, "b": 1},
            meta=meta,
        )
        assert not done.is_error, text(done)
    async with house.client(viewer) as client:
        shown = await client.call_tool("get_session", {"session_id": "sums"})
        assert shown.structured_content is not None
        assert shown.structured_content["session_id"] == "sums"
        events = await client.call_tool("get_session_events", {"session_id": "sums", "limit": 2})
        assert len(json.loads(text(events))["events"]) == 2
        refused = await client.call_tool("mcp__desk__add", {"a": 1, "b": 1})
        assert (refused.is_error, refused.structured_content["code"]) == (True, "forbidden")
        wrong = await client.call_tool("list_runs", {"limit": 0})
        assert wrong.is_error
        audit = await client.call_tool("get_session", {"session_id": "flotilla:audit"})
        assert audit.is_error
    async with house.client(stranger) as client:
        names = {tool.name for tool in (await client.list_tools()).tools}
        assert not {name for name in names if name.startswith("mcp__")}
        hidden = await client.call_tool("get_session", {"session_id": "sums"})
        assert (hidden.is_error, hidden.structured_content["code"]) == (True, "not_found")
        with pytest.raises(MCPError, match="no tool"):
            await client.call_tool("mcp__desk__add", {"a": 1, "b": 1})
    assert house.desk.calls() == ["add 1 1"]
