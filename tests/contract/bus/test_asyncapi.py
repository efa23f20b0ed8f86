"""The AsyncAPI document against what the code really writes."""

import json
from collections.abc import AsyncIterator
from functools import cache
from typing import Any

import jsonschema_rs
import pytest

from flotilla.agent import Agent, replies
from flotilla.agent.effects import StoredAnswer
from flotilla.bus import AgentEventBus, LiveRunWriter, Redis, connect_redis
from flotilla.bus.asyncapi import asyncapi_document
from flotilla.bus.dead_letters import StreamDeadLetters, UnhandledEntry
from flotilla.bus.entries import StreamEntry
from flotilla.contracts import AgentEvent, AgentTask, names
from flotilla.contracts.envelope import encode_event, to_builtins
from flotilla.contracts.session_events import SESSION_EVENT_KINDS, session_event_type
from flotilla.contracts.tasks import (
    DRAFT_COMPLETED,
    RESEARCH_COMPLETED,
    TASK_REQUESTED,
    Failure,
    ReplyAddress,
    TaskCompleted,
)
from tests.support.consumers import entries
from tests.support.waiting import eventually

LIVE = names.run_stream("r1", "key")
TASK = AgentTask(
    task_id="t1",
    agent="research",
    tenant_id="default",
    session_id="s1",
    run_id="r1",
    user_id="alice",
    input={"query": "why?"},
    reply_to=ReplyAddress(workflow_id="w", workflow_run_id="r", activity_id="t1"),
    slip=["write"],
)
RESEARCH = Agent("research", announces=RESEARCH_COMPLETED)
WRITE = Agent("write", announces=DRAFT_COMPLETED)


@cache
def described() -> dict[str, Any]:
    """The document; to make it takes a second, which every process of the tests would need."""
    return asyncapi_document("1.2.3")


@pytest.fixture
async def redis(redis_url: str) -> AsyncIterator[Redis]:
    async with connect_redis(redis_url) as client:
        yield client


def resolve(reference: str) -> Any:
    node: Any = described()
    for part in reference.removeprefix("#/").split("/"):
        node = node[part]
    return node


def schemas_of(address: str) -> list[Any]:
    """The payload schemas of every message that the channel with this address carries."""
    found = []
    for channel in described()["channels"].values():
        if channel["address"] == address:
            found += [resolve(resolve(message["$ref"])["payload"]["$ref"]) for message in channel["messages"].values()]
    return found


def fits(value: object, schema: Any) -> bool:
    validator = jsonschema_rs.Draft202012Validator(
        {**schema, "components": described()["components"]}, validate_formats=True
    )
    return bool(validator.is_valid(value))


def carried(address: str, value: object) -> int:
    """How many of the channel's messages `value` is."""
    return sum(fits(value, schema) for schema in schemas_of(address))


def test_every_channel_of_the_contract_is_declared() -> None:
    assert {channel["address"] for channel in described()["channels"].values()} == {
        names.TASK_STREAM_PREFIX + "{agent}",
        names.REPLY_STREAM_PREFIX + "{agent}",
        names.REDRIVES_STREAM,
        names.EVENTS_STREAM,
        names.RUN_STREAM_PREFIX + "{run}.{key}",
        names.DEAD_LETTERS_STREAM,
        names.SESSION_EVENTS_TOPIC,
        names.CHECKPOINTS_TOPIC,
    }


def test_document_is_asyncapi_3_and_the_same_every_time() -> None:
    assert described()["asyncapi"] == "3.0.0"
    assert described()["info"]["version"] == "1.2.3"
    assert json.dumps(asyncapi_document("1.2.3")) == json.dumps(described())


def test_every_variable_of_an_address_is_declared() -> None:
    for channel in described()["channels"].values():
        assert channel["address"].count("{") == len(channel.get("parameters", {}))


def test_every_reference_resolves() -> None:
    def walk(node: Any) -> None:
        if isinstance(node, dict):
            if isinstance(node.get("$ref"), str):
                resolve(node["$ref"])
            for value in node.values():
                walk(value)
        elif isinstance(node, list):
            for value in node:
                walk(value)

    walk(described())


def test_task_is_what_the_document_says() -> None:
    event = AgentEvent(type=TASK_REQUESTED, source="/workflows/x", subject="s1", data=to_builtins(TASK))
    body = json.loads(encode_event(event))
    assert carried("flotilla.tasks.{agent}", body) == 1
    assert carried("flotilla.tasks.{agent}", {**body, "type": "flotilla.task.requested.v2"}) == 0
    assert carried("flotilla.tasks.{agent}", {**body, "data": {"task_id": "t1"}}) == 0


@pytest.mark.parametrize("agent", [RESEARCH, WRITE])
def test_answers_of_agents_are_what_the_document_says(agent: Agent) -> None:
    done = StoredAnswer(status="done", attempt=1, result={"text": "x"})
    failed = StoredAnswer(status="failed", attempt=1, failure=Failure(type="ValueError", message="no", retryable=False))
    big = StoredAnswer(status="done", attempt=1, result={"text": "x" * 20_000})
    for answer in (done, failed, big):
        for stream, event in replies.reply_events_for_answer(agent, TASK, answer):
            assert stream == names.reply_stream(agent.name)
            assert carried("flotilla.replies.{agent}", json.loads(encode_event(event))) == 1
    assert (
        carried(
            "flotilla.replies.{agent}", json.loads(encode_event(replies.make_progress_reply(agent, TASK, "half")[1]))
        )
        == 1
    )


async def test_dead_letter_is_what_the_document_says() -> None:
    body = encode_event(AgentEvent(type="t", source="/x", subject="s1", data=to_builtins(TASK)))
    lost = UnhandledEntry(
        stream="flotilla.tasks.research",
        group="research-agents",
        entry=StreamEntry("1-1", {b"event": body}, 5),
        reason="unknown_type",
        error="no",
    )
    (_, announced), (_, reply) = await StreamDeadLetters().keep(lost)
    assert carried(names.DEAD_LETTERS_STREAM, json.loads(encode_event(announced))) == 1
    assert carried("flotilla.replies.{agent}", json.loads(encode_event(reply))) == 1


async def test_live_stream_is_what_the_document_says(redis: Redis) -> None:
    feed = LiveRunWriter(redis)
    await feed.write_step(LIVE, "research", "started", attempt=1, agent="research")
    await feed.write_reset(LIVE, task_id="t1", attempt=2)
    await feed.write_token(LIVE, "Hello", task_id="t1", attempt=2)
    await feed.write_run_ended(LIVE, "success")
    found: Any = await redis.xrange(LIVE)
    assert [fields[b"kind"] for _, fields in found] == [b"step", b"reset", b"token", b"done"]
    for _, fields in found:
        entry = {"kind": fields[b"kind"].decode(), "data": json.loads(fields[b"data"])}
        assert carried("flotilla.runs.{run}.{key}", entry) == 1


@pytest.mark.parametrize("kind", SESSION_EVENT_KINDS)
def test_every_kind_of_session_event_is_declared(kind: Any) -> None:
    types = {schema["properties"]["type"]["const"] for schema in schemas_of(names.SESSION_EVENTS_TOPIC)}
    assert session_event_type(kind) in types


async def test_plain_subscriber_sees_announcements_and_passes_over_what_is_none(redis: Redis, redis_url: str) -> None:
    from flotilla.bus.announcements import announcement_broker

    seen: list[AgentEvent] = []

    async def keep(event: AgentEvent) -> None:
        seen.append(event)

    broker = announcement_broker(redis_url, keep)
    await broker.start()
    bus = AgentEventBus(redis)
    done = TaskCompleted(task_id="t1", agent="research", attempt=1, duration_ms=1.0)
    announced = AgentEvent(type=RESEARCH_COMPLETED, source="/agents/research", subject="s1", data=to_builtins(done))
    try:
        await redis.xadd(names.EVENTS_STREAM, {"event": b"{"})
        await eventually(lambda: _seen_again(bus, announced, seen))
    finally:
        await broker.stop()
    assert seen[0].type == RESEARCH_COMPLETED
    assert len(await entries(redis, names.DEAD_LETTERS_STREAM)) == 0


async def _seen_again(bus: AgentEventBus, announced: AgentEvent, seen: list[AgentEvent]) -> bool:
    """A plain subscriber sees what is announced from its first read on, so it is announced until then."""
    await bus.publish(names.EVENTS_STREAM, announced)
    return bool(seen)
