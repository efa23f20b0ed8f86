"""The spans of one task through all services that take part: one tree, under the span of the client."""

import secrets
from collections.abc import Callable
from typing import Any

import pytest

from tests.e2e.fleet import Fleet, session_events
from tests.e2e.stub_endpoint import StubEndpoint
from tests.support.otlp import SeenSpan, TraceReceiver
from tests.support.waiting import eventually

QUESTION = "How late is it on the wharf?"
ZONE = "Atlantic/Faroe"
TOOL = "time.get_current_time"
INVOKE, CHAT = "invoke_agent clock", "chat stub"
EXECUTE, CALL = f"execute_tool mcp__{TOOL.replace('.', '__')}", "POST /v1/calls"
EXECUTE_UPSTREAM = f"execute_tool {TOOL}"


class Tree:
    """The spans of a trace."""

    def __init__(self, spans: list[SeenSpan], client: str) -> None:
        """`client` is the span of the client, which no service exports."""
        self.spans = spans
        self.by_id = {span.span_id: span for span in spans}
        self.client = client

    def orphans(self) -> set[str]:
        """Spans whose parent is none of the trace."""
        return {span.name for span in self.spans if span.parent_id not in {*self.by_id, self.client}}

    def roots(self) -> list[str]:
        """Spans under the client's."""
        return [span.name for span in self.spans if span.parent_id == self.client]

    def named(self, name: str) -> SeenSpan:
        """The one span of this name."""
        [span] = [span for span in self.spans if span.name == name]
        return span

    def above(self, span: SeenSpan) -> list[SeenSpan]:
        """The spans from the root to the parent of `span`."""
        path: list[SeenSpan] = []
        while (parent := self.by_id.get((path[0] if path else span).parent_id)) is not None:
            path.insert(0, parent)
        return path


@pytest.fixture
async def tree(
    llm_fleet: Fleet, stub_llm: StubEndpoint, traces: TraceReceiver, unique: Callable[[str], str]
) -> tuple[Tree, list[dict[str, Any]]]:
    """The spans and the events of one task of the agent `clock`."""
    await allowed(llm_fleet)
    trace_id, client_span, session_id = secrets.token_hex(16), secrets.token_hex(8), unique("clock")
    async with llm_fleet.client("admin") as client:
        body = {"steps": ["clock"], "input": {"question": QUESTION, "zone": ZONE}, "session_id": session_id}
        sent = await client.post("/v1/tasks", json=body, headers={"traceparent": f"00-{trace_id}-{client_span}-01"})
        assert sent.status_code == 202, sent.text

        async def ended() -> dict[str, Any] | None:
            task: dict[str, Any] = (await client.get(f"/v1/tasks/{sent.json()['task_id']}")).json()
            return task if task["finished_at"] else None

        task = await eventually(ended, timeout_s=120)
        assert task["status"] == "success", task
        assert ZONE in task["result"]["time"]
        events = await session_events(client, session_id)
    wanted = {INVOKE, CHAT, EXECUTE, CALL, EXECUTE_UPSTREAM}

    def whole() -> Tree | None:
        found = Tree(traces.spans_of(trace_id), client_span)
        return found if wanted <= {span.name for span in found.spans} and not found.orphans() else None

    return await eventually(whole, timeout_s=60), events


async def allowed(fleet: Fleet) -> None:
    """The tool is offered, and the tenant allows it."""
    async with fleet.client("admin") as admin:

        async def offered() -> dict[str, Any] | None:
            answer = await admin.get(f"/v1/tools/{TOOL}")
            return answer.json()["offered"] if answer.status_code == 200 else None

        offer = await eventually(offered, timeout_s=60)
        answer = await admin.put(f"/v1/tools/{TOOL}/allowance", json={"sha256": offer["sha256"]})
        assert answer.status_code == 200, answer.text


async def test_the_spans_of_a_task_are_one_tree_from_the_gateway_to_the_tool(
    tree: tuple[Tree, list[dict[str, Any]]],
) -> None:
    spans, events = tree
    assert spans.roots() == ["POST /v1/tasks"]
    invoked = spans.named(INVOKE)
    services = list(dict.fromkeys(span.service for span in [*spans.above(invoked), invoked]))
    assert services == ["gateway", "workflow-worker", "clock-agent"]
    assert spans.named(CHAT).parent_id == spans.named(EXECUTE).parent_id == invoked.span_id
    call = spans.named(CALL)
    assert (call.service, call.parent_id) == ("tool-gateway", spans.named(EXECUTE).span_id)
    assert spans.named(EXECUTE_UPSTREAM).parent_id == call.span_id
    assert {event["traceparent"].split("-")[1] for event in events} == {call.trace_id}


async def test_spans_of_agent_model_and_tool_have_the_names_of_the_conventions_and_no_content(
    tree: tuple[Tree, list[dict[str, Any]]],
) -> None:
    """Source of the names: OpenTelemetry semantic-conventions-genai v0.1.0."""
    spans, events = tree
    session_id = events[0]["data"].get("session_id") or events[0]["subject"]
    call_ids = {event["data"]["call_id"] for event in events if "tool_call" in event["type"]}
    invoked, chat = spans.named(INVOKE).attributes, spans.named(CHAT).attributes
    assert invoked | {"gen_ai.agent.name": "clock", "gen_ai.agent.version": "7"} == invoked
    assert (invoked["gen_ai.operation.name"], invoked["gen_ai.conversation.id"]) == ("invoke_agent", session_id)
    assert chat["gen_ai.operation.name"] == "chat"
    assert (chat["gen_ai.provider.name"], chat["gen_ai.request.model"]) == ("openai", "stub")
    assert chat["gen_ai.response.finish_reasons"] == ["stop"]
    assert {"gen_ai.response.model", "gen_ai.response.id", "server.address", "server.port"} <= chat.keys()
    assert chat["gen_ai.usage.input_tokens"] > 0
    assert chat["gen_ai.usage.output_tokens"] > 0
    for name in (EXECUTE, EXECUTE_UPSTREAM):
        tool = spans.named(name).attributes
        assert (tool["gen_ai.operation.name"], tool["gen_ai.tool.type"]) == ("execute_tool", "function")
        assert tool["gen_ai.tool.name"] == name.removeprefix("execute_tool ")
        assert tool["gen_ai.tool.call.id"] in call_ids
    said = str([span.attributes for span in spans.spans])
    assert QUESTION not in said
    assert ZONE not in said
