"""Workflows and single agents as models of OpenAI's own client; the test plays the workflow worker."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import openai
import pytest
from openai import AsyncOpenAI
from pydantic import BaseModel

from flotilla.bus import connect_redis
from flotilla.bus.live import LiveRunWriter
from tests.integration.gateway.test_a2a_clients import ADD_QUESTION
from tests.integration.gateway.test_workflow_runs import publish
from tests.support.gateway import RunningGateway
from tests.support.waiting import eventually

MODEL = "flotilla/brief"
ASKED: Any = [{"role": "user", "content": "harbours"}]
REGISTER = """
INSERT INTO flotilla_ops.agents (name, instance, version, stream, consumer_group, concurrency, in_flight, input_schema,
    output_schema, started_at, last_seen)
VALUES ('research', 'r1', '1', 's', 'g', 1, 0, '{}', '{}', now(), now())
"""
REGISTER_STEP = REGISTER.replace("research", "mcp").replace("'{}', '{}'", """'{"required": ["tool"]}', '{}'""")
"""An agent that a question is not enough for."""
ADD_APPROVAL = """
INSERT INTO flotilla.approvals (tenant_id, approval_id, session_id, workflow_id, run_id, action, description, args,
    content_hash, risk_level, reasons, requested_by, requirement, policy_version, quorum, deadline_at)
SELECT 'acme', 'refund-1', session_id, 'action-refund-1', run_id, 'refund', 'd', '{"order": 7}', 'h', 'low', '{}',
    'olga', '{"required": true, "risk_level": "low", "reasons": [], "policy_version": "1"}', '1', 1, now()
FROM flotilla.runs
"""
REGISTER_BROKEN = [
    REGISTER.replace("research", f"broken-{number}").replace("'{}', '{}'", f"'{schema}', '{schema}'")
    for number, schema in enumerate(
        ("[]", "null", "5", '{"required": 5}', '{"required": [["query"]]}', '{"required": null, "properties": []}')
    )
]
"""Agents whose schemas are none."""
SCHEMA_OF_QUAY = {"type": "object", "properties": {"quay": {"type": "string"}}, "required": ["quay"]}


class Brief(BaseModel):
    """What the caller wants."""

    title: str
    pages: int


@pytest.fixture
async def client(gateway: RunningGateway) -> AsyncIterator[AsyncOpenAI]:
    await publish(gateway)
    key = await gateway.key("olga", ["operator"], person=True)
    async with AsyncOpenAI(base_url=f"{gateway.url}/openai/v1", api_key=key, max_retries=0, timeout=90) as client:
        yield client


async def end(gateway: RunningGateway, output: dict[str, Any]) -> Any:
    """Ends the only open run as the worker does, with what its workflow returned; returns its row."""
    open_runs = "SELECT * FROM flotilla.runs WHERE status = 'pending'"

    async def is_there() -> bool:
        return len(await gateway.rows(open_runs)) == 1

    await eventually(is_there, timeout_s=60)  # a process that checks schemas starts first
    (row,) = await gateway.rows(open_runs)
    await gateway.as_superuser(
        "INSERT INTO flotilla.llm_calls (tenant_id, task_id, call_index, request_hash, session_id, run_id, agent, "
        f"model, answer, input_tokens, output_tokens, duration_ms) VALUES ('acme', '{row['run_id']}', 0, 'x', "
        f"'{row['session_id']}', '{row['run_id']}', 'a', 'm', '{{}}', 5, 2, 1)",
        f"UPDATE flotilla.runs SET status = 'success', finished_at = now(), output = '{json.dumps(output)}' "
        f"WHERE run_id = '{row['run_id']}'",
    )
    return row


async def test_workflows_and_agents_are_models(gateway: RunningGateway, client: AsyncOpenAI) -> None:
    await gateway.as_superuser(REGISTER, REGISTER_STEP)
    names = [model.id async for model in client.models.list()]
    assert names == ["flotilla/rag", MODEL, "flotilla/agent/research"]
    for name in names:
        assert (await client.models.retrieve(name)).id == name
    with pytest.raises(openai.NotFoundError, match="no model flotilla/agent/mcp") as refused:
        await client.chat.completions.create(model="flotilla/agent/mcp", messages=ASKED)
    assert refused.value.code == "model_not_found"
    asking = asyncio.create_task(client.chat.completions.create(model=names[2], messages=ASKED))
    row = await end(gateway, {"passages": []})
    assert (json.loads(row["request"])["steps"], row["query"]) == (["research"], "harbours")
    assert (await asking).choices[0].message.content == '{"passages":[]}'


async def test_an_agent_whose_schema_is_none_breaks_no_list(gateway: RunningGateway, client: AsyncOpenAI) -> None:
    await gateway.as_superuser(REGISTER, *REGISTER_BROKEN)
    assert "flotilla/agent/research" in [model.id async for model in client.models.list()]
    http = gateway.client(client.api_key)
    for path in (
        "/v1/agents",
        "/a2a/agents/research/.well-known/agent-card.json",
        "/a2a/workflows/rag/extendedAgentCard",
    ):
        assert (await http.get(path, headers={"A2A-Version": "1.0"})).status_code == 200, path
    message = {"jsonrpc": "2.0", "id": 1, "method": "tools/list"}
    tools = await http.post("/mcp", json=message, headers={"Accept": "application/json, text/event-stream"})
    assert "agent__research" in tools.text


async def test_answer_of_a_workflow_is_what_it_returned_with_its_usage(
    gateway: RunningGateway, client: AsyncOpenAI
) -> None:
    asking = asyncio.create_task(client.chat.completions.create(model=MODEL, messages=ASKED))
    row = await end(gateway, {"text": "Three pages."})
    completion = await asking
    assert json.loads(row["request"])["input"] == {"topic": "harbours"}
    assert completion.choices[0].message.content == "Three pages."
    assert completion.usage is not None
    assert (completion.usage.prompt_tokens, completion.usage.completion_tokens) == (5, 2)
    assert completion.model == MODEL
    stream = await client.responses.create(model=MODEL, input='{"topic": "x", "max_rounds": 2}', stream=True)
    row = await end(gateway, {"text": "Two pages."})
    seen = [event async for event in stream]
    assert json.loads(row["request"])["input"] == {"topic": "x", "max_rounds": 2}
    assert "".join(event.delta for event in seen if event.type == "response.output_text.delta") == "Two pages."
    with pytest.raises(openai.BadRequestError, match="max_rounds"):
        await client.responses.create(model=MODEL, input='{"topic": "x", "max_rounds": "y"}')


async def test_an_answer_that_is_too_long_to_be_sent_again_is_answered(
    gateway: RunningGateway, client: AsyncOpenAI
) -> None:
    asking = asyncio.create_task(client.chat.completions.create(model=MODEL, messages=ASKED))
    await end(gateway, {"text": "x" * 200_001})
    assert len((await asking).choices[0].message.content or "") == 200_001


async def test_run_of_a_workflow_that_was_started_otherwise_is_read_as_a_response(
    gateway: RunningGateway, client: AsyncOpenAI, redis_url: str
) -> None:
    http = gateway.client(client.api_key)
    started = await http.post("/v1/sessions/s-1/runs", json={"workflow": "brief", "input": {"topic": "harbours"}})
    run_id = started.json()["run_id"]
    stream = await client.responses.retrieve(f"resp_{run_id}", stream=True)
    seen: list[Any] = [await anext(stream)]
    async with connect_redis(redis_url) as redis:
        feed = LiveRunWriter(redis)
        await feed.write_token(await gateway.live(run_id), "of an agent that it asked", task_id="t", attempt=1)
        await feed.wait_until_written()
    await end(gateway, {"text": "Three pages."})
    seen += [event async for event in stream]
    assert seen[-1].type == "response.completed", seen[-1]
    assert (seen[-1].response.output_text, seen[-1].response.model) == ("Three pages.", MODEL)


async def test_structured_output_is_of_the_schema_or_an_error(gateway: RunningGateway, client: AsyncOpenAI) -> None:
    parsing = asyncio.create_task(client.responses.parse(model=MODEL, input="harbours", text_format=Brief))
    await end(gateway, {"title": "Harbours", "pages": 3})
    parsed = await parsing
    assert parsed.output_parsed == Brief(title="Harbours", pages=3)
    again = await client.responses.retrieve(parsed.id)
    assert again.text is not None
    assert again.text.format is not None
    assert again.text.format.type == "json_schema"
    completing = asyncio.create_task(client.chat.completions.parse(model=MODEL, messages=ASKED, response_format=Brief))
    await end(gateway, {"title": "Harbours", "pages": "three"})
    with pytest.raises(openai.InternalServerError, match=r"not of the format.*#/pages"):
        await completing
    asking = asyncio.create_task(
        client.responses.create(model=MODEL, input="harbours", text={"format": {"type": "json_object"}})
    )
    await end(gateway, {"text": "x"})
    assert (await asking).output_text == '{"text":"x"}'


@pytest.mark.parametrize("schema", [{"type": "wat"}, {"$ref": "https://example.com/schema"}, {"pattern": "("}])
async def test_schema_that_is_none_is_refused(
    gateway: RunningGateway, client: AsyncOpenAI, schema: dict[str, Any]
) -> None:
    wanted: Any = {"format": {"type": "json_schema", "name": "x", "schema": schema}}
    with pytest.raises(openai.BadRequestError, match="schema of the format"):
        await client.responses.create(model=MODEL, input="harbours", text=wanted)
    assert await gateway.rows("SELECT 1 FROM flotilla.runs") == []


async def test_approvals_are_items_and_their_responses_are_no_votes(
    gateway: RunningGateway, client: AsyncOpenAI
) -> None:
    response = await client.responses.create(model=MODEL, input="harbours", background=True)
    await gateway.as_superuser(ADD_APPROVAL, "UPDATE flotilla.runs SET status = 'interrupted'")
    waiting = await client.responses.retrieve(response.id)
    assert waiting.status == "in_progress"
    (item,) = waiting.output
    assert item.type == "mcp_approval_request"
    assert (item.id, item.name, item.server_label) == ("mcpr_refund-1", "refund", "flotilla")
    assert json.loads(item.arguments) == {"order": 7}
    answer: Any = [{"type": "mcp_approval_response", "approval_request_id": item.id, "approve": True}]
    with pytest.raises(openai.BadRequestError, match="is not a vote"):
        await client.responses.create(model=MODEL, input=answer, previous_response_id=response.id)
    (approval,) = await gateway.rows("SELECT status, votes FROM flotilla.approvals")
    assert (approval["status"], approval["votes"]) == ("pending", "[]")


async def test_question_to_people_is_shown_while_it_waits_and_no_input_answers_it(
    gateway: RunningGateway, client: AsyncOpenAI
) -> None:
    response = await client.responses.create(model=MODEL, input="harbours", background=True)
    await gateway.as_superuser(ADD_QUESTION, "UPDATE flotilla.runs SET status = 'interrupted'")
    waiting = await client.responses.retrieve(response.id)
    assert (waiting.status, waiting.output_text.partition("\n")[0]) == ("in_progress", "Which quay?")
    ((question,),) = (waiting.model_extra or {})["flotilla"].values()
    assert (question["answer_at"], question["schema"]) == ("/v1/questions/q-1/answer", SCHEMA_OF_QUAY)
    with pytest.raises(openai.ConflictError):
        await client.responses.create(model=MODEL, input="north", previous_response_id=response.id)
    native = gateway.client(client.api_key)
    (await native.post(question["answer_at"], json={"answer": {"quay": "north"}})).raise_for_status()
    assert (await client.responses.retrieve(response.id)).output == []
