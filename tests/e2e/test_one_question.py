"""The main job through all services, and what it leaves behind in every store."""

import asyncio
from typing import Any

import httpx
import pytest

from flotilla.contracts.names import SESSION_EVENTS_TOPIC
from flotilla.kafka.lanes import lane_of_session
from tests.e2e.fleet import Fleet, finished, session_events, start_run
from tests.e2e.stores import kafka_events, outbox_rows, projected_events
from tests.support.catalog import SERVICES
from tests.support.otlp import TraceReceiver
from tests.support.waiting import eventually, settled

HANDBOOK = """# Harbour handbook

## Moorings
Every mooring line at Northquay is inspected on the first Monday of a month by the harbour master.

## Fuel
Diesel is sold at pontoon C between seven and nineteen o'clock. Payment is by card only.
"""


@pytest.fixture
async def answered(fleet: Fleet, unique: Any) -> dict[str, Any]:
    """A finished run, its session and its events."""
    session_id = unique("harbour")
    async with fleet.client() as client:
        await upload(client, f"harbour-{session_id}.md", HANDBOOK)
        run_id = await start_run(client, session_id, "Who inspects the mooring lines at Northquay?", session_id)
        run = await finished(client, run_id)
        return {"session_id": session_id, "run": run, "events": await session_events(client, session_id)}


async def upload(client: httpx.AsyncClient, name: str, text: str) -> None:
    files = {"file": (name, text.encode(), "text/markdown")}
    answer = await client.post("/v1/documents", files=files)
    assert answer.status_code in (200, 201), answer.text


async def test_the_answer_cites_passages_that_exist(fleet: Fleet, answered: dict[str, Any]) -> None:
    assert answered["run"]["status"] == "success", answered["run"]
    result = answered["run"]["result"]
    assert "harbour master" in result["answer"]
    assert result["sources"]
    assert 0 <= result["confidence"] <= 1
    assert result["confidence_basis"] in ("token_logprobs", "retrieval_scores", "calibrated")
    async with fleet.client() as client:
        listed = (await client.get("/v1/documents", params={"limit": 1000})).json()
    known = {document["document_id"] for document in listed["documents"]}
    assert {source["document_id"] for source in result["sources"]} <= known


async def test_the_log_is_contiguous_and_the_same_in_every_store(fleet: Fleet, answered: dict[str, Any]) -> None:
    session_id, events = answered["session_id"], answered["events"]
    assert [event["sequence"] for event in events] == list(range(1, len(events) + 1))
    kinds = [event["type"] for event in events]
    assert kinds[0] == "flotilla.session.message.v1"
    assert "flotilla.session.tool_call.v1" in kinds
    assert "flotilla.session.tool_result.v1" in kinds
    ids = [event["id"] for event in events]

    async def projected() -> bool:
        return [row["event_id"] for row in await projected_events(fleet, session_id)] == ids

    async def drained() -> bool:  # the relay deletes after Kafka's acknowledgement
        return await outbox_rows(fleet, session_id) == 0

    await eventually(projected, timeout_s=60, every_s=0.2)
    await eventually(drained, timeout_s=60, every_s=0.2)
    in_kafka = await kafka_events(fleet, SESSION_EVENTS_TOPIC, lane_of_session("default", session_id), session_id)
    assert [event.id for event in in_kafka] == ids
    assert [event.sequence for event in in_kafka] == [event["sequence"] for event in events]


async def test_one_trace_runs_through_every_service(
    fleet: Fleet, traces: TraceReceiver, answered: dict[str, Any]
) -> None:
    trace_ids = {event["traceparent"].split("-")[1] for event in answered["events"]}
    assert len(trace_ids) == 1
    (trace_id,) = trace_ids
    everyone = set(SERVICES) - {"tool-gateway"}  # the question calls no tool of an MCP server
    await settled(lambda: sorted(traces.services_of(trace_id)), sorted(everyone), timeout_s=120)


async def test_events_are_complete_while_the_audit_consumer_is_stopped(fleet: Fleet, unique: Any) -> None:
    session_id = unique("stopped")
    with fleet.paused("audit-consumer"):
        async with fleet.client() as client:
            run = await finished(client, await start_run(client, session_id, "When is diesel sold?", session_id))
            events = await session_events(client, session_id)
            head = (await client.get(f"/v1/sessions/{session_id}")).json()["head_seq"]
    assert run["status"] == "success"
    assert [event["sequence"] for event in events] == list(range(1, head + 1))


async def test_live_events_stream_tokens_and_end_with_done(fleet: Fleet, unique: Any) -> None:
    session_id = unique("live")
    async with fleet.client() as client:
        run_id = await start_run(client, session_id, "When is diesel sold?", session_id)
        kinds: list[str] = []
        async with asyncio.timeout(180), client.stream("GET", f"/v1/runs/{run_id}/events") as stream:
            async for line in stream.aiter_lines():
                if line.startswith("event:"):
                    kinds.append(line.removeprefix("event:").strip())
                    if kinds[-1] == "done":
                        break
    assert kinds[-1] == "done"
    assert {"step", "session_event"} <= set(kinds)
