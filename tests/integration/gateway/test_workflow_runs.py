"""Runs of workflows that installed packages bring: checked before they start, listed, found again."""

import json
from collections.abc import Callable
from typing import Any

import httpx
import pytest
from temporalio.client import Client

from flotilla.contracts.envelope import from_json
from flotilla.contracts.requests import WorkflowRequest
from tests.support.gateway import RunningGateway

SCHEMA = {
    "type": "object",
    "properties": {
        "topic": {"type": "string"},
        "max_rounds": {"type": "integer", "default": 3},
        "sources": {"type": "array", "items": {"$ref": "#/$defs/Source"}},
    },
    "$defs": {"Source": {"type": "object", "properties": {"uri": {"type": "string"}}, "required": ["uri"]}},
    "required": ["topic"],
    "additionalProperties": False,
}
ADD = """
INSERT INTO flotilla_ops.workflows
    (name, instance, version, task_queue, description, input_schema, output_schema, started_at, last_seen)
VALUES ('{name}', '{instance}', '{version}', 'team-queue', 'Write a brief.', '{schema}', '{{"type": "object"}}',
    now() - interval '{age}', now() - interval '{age}')
"""


async def publish(
    gateway: RunningGateway,
    name: str = "brief",
    *,
    instance: str = "w1",
    version: str = "1",
    age: str = "0 s",
    schema: Any = SCHEMA,
) -> None:
    """What a worker with the workflow installed publishes."""
    await gateway.as_superuser(
        ADD.format(name=name, instance=instance, version=version, schema=json.dumps(schema).replace("'", "''"), age=age)
    )


async def start(client: httpx.AsyncClient, session_id: str, **body: Any) -> httpx.Response:
    return await client.post(f"/v1/sessions/{session_id}/runs", json=body)


async def test_a_run_of_a_workflow_is_started_where_its_workers_are(
    gateway: RunningGateway, operator: httpx.AsyncClient, temporal_client: Client, unique: Callable[[str], str]
) -> None:
    await publish(gateway)
    session_id = unique("s")
    answer = await start(
        operator, session_id, workflow="brief", input={"topic": "harbours"}, metadata={"ticket": "T-1"}
    )
    assert answer.status_code == 202, answer.text
    run_id = answer.json()["run_id"]
    run = (await operator.get(f"/v1/runs/{run_id}")).json()
    assert (run["workflow"], run["query"], run["metadata"]) == ("brief", "", {"ticket": "T-1"})
    assert (run["result"], run["output"]) == (None, None)
    (row,) = await gateway.rows("SELECT request FROM flotilla.runs")
    request = from_json(row["request"], WorkflowRequest)
    assert (request.input, request.user_id, request.version) == ({"topic": "harbours"}, "olga", "1")
    described = await temporal_client.get_workflow_handle(f"run-{run_id}").describe()
    assert (described.workflow_type, described.task_queue) == ("brief", "team-queue")
    events = (await operator.get(f"/v1/sessions/{session_id}/events")).json()["events"]
    assert [(event["data"]["change"], event["data"]["details"]["input"]) for event in events] == [
        ("run_started", {"topic": "harbours"})
    ]


@pytest.mark.parametrize(
    ("data", "pointers"),
    [
        ({}, ["#/input"]),
        ({"topic": 7}, ["#/input/topic"]),
        ({"topic": "x", "max_rounds": "three"}, ["#/input/max_rounds"]),
        ({"topic": "x", "sources": [{"uri": "a"}, {"uri": None}]}, ["#/input/sources/1/uri"]),
        ({"topic": "x", "max_round": 3}, ["#/input"]),
    ],
)
async def test_an_input_that_is_not_the_workflows_is_refused_with_the_fields_path(
    gateway: RunningGateway, operator: httpx.AsyncClient, data: dict[str, Any], pointers: list[str]
) -> None:
    await publish(gateway)
    answer = await start(operator, "s", workflow="brief", input=data)
    assert answer.status_code == 422, answer.text
    assert [error["pointer"] for error in answer.json()["errors"]] == pointers
    assert await gateway.rows("SELECT 1 FROM flotilla.runs") == []
    assert await gateway.rows("SELECT 1 FROM flotilla.sessions WHERE session_id = 's'") == []


async def test_a_workflow_that_no_worker_serves_is_refused_with_those_that_are(
    gateway: RunningGateway, operator: httpx.AsyncClient
) -> None:
    answer = await start(operator, "s", workflow="brief", input={"topic": "x"})
    assert (answer.status_code, answer.json()["code"]) == (422, "unknown_workflow")
    assert "there are none" in answer.json()["detail"]
    await publish(gateway, "digest")
    await publish(gateway, "brief", age="16 min")
    answer = await start(operator, "s", workflow="brief", input={"topic": "x"})
    assert (answer.status_code, answer.json()["code"]) == (422, "unknown_workflow")
    assert "digest" in answer.json()["detail"]


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"query": "Who?", "workflow": "brief"},
        {"query": "Who?", "input": {"topic": "x"}},
        {"workflow": "brief", "input": {"topic": "x"}, "steps": ["research"]},
        {"workflow": "brief", "input": []},
        {"workflow": "brief", "input": {"topic": "x" * 200_001}},
        {"workflow": "brief", "input": {"topic": "\x00"}},
        {"query": "Who?", "metadata": {"a b": "c"}},
        {"query": "Who?", "metadata": {"a": 1}},
        {"query": "Who?", "metadata": {f"n{n}": "" for n in range(21)}},
    ],
)
async def test_a_request_that_is_neither_a_question_nor_a_workflows_is_refused(
    gateway: RunningGateway, operator: httpx.AsyncClient, body: dict[str, Any]
) -> None:
    await publish(gateway)
    assert (await start(operator, "s", **body)).status_code == 422


async def test_workflows_are_listed_as_the_newest_worker_has_them(
    gateway: RunningGateway, operator: httpx.AsyncClient
) -> None:
    await publish(gateway, instance="old", version="1", age="10 min")
    await publish(gateway, instance="new", version="2")
    (listed,) = (await operator.get("/v1/workflows")).json()["workflows"]
    assert (listed["name"], listed["version"], listed["instances"]) == ("brief", "2", 1)
    assert listed["input_schema"] == SCHEMA
    assert (await operator.get("/v1/workflows/brief")).json() == listed
    assert (await operator.get("/v1/workflows/none")).status_code == 404


async def test_runs_are_found_by_metadata_workflow_person_and_time(
    gateway: RunningGateway, operator: httpx.AsyncClient
) -> None:
    await publish(gateway)
    for session_id, metadata in (("a", {"ticket": "T-1", "team": "red"}), ("b", {"ticket": "T-2", "team": "red"})):
        await start(operator, session_id, workflow="brief", input={"topic": "x"}, metadata=metadata)
    await start(operator, "c", query="Who?")

    async def found(**only: str) -> list[str]:
        answer = await operator.get("/v1/runs", params=only)
        assert answer.status_code == 200, answer.text
        return sorted(run["session_id"] for run in answer.json()["runs"])

    assert await found(**{"metadata.ticket": "T-1"}) == ["a"]
    assert await found(**{"metadata.team": "red"}) == ["a", "b"]
    assert await found(**{"metadata.team": "red", "metadata.ticket": "T-2"}) == ["b"]
    assert await found(**{"metadata.team": "blue"}) == []
    assert await found(workflow="brief") == ["a", "b"]
    assert await found(workflow="rag") == ["c"]
    assert await found(user_id="olga", workflow="rag") == ["c"]
    assert await found(created_after="2100-01-01T00:00:00Z") == []
    assert await found(created_before="2100-01-01T00:00:00Z") == ["a", "b", "c"]
    assert (await operator.get("/v1/runs", params={"created_after": "yesterday"})).status_code == 422
    assert (await operator.get("/v1/runs", params={"metadat.ticket": "T-1"})).status_code == 422
    assert (await operator.get("/v1/runs", params={"metadata.ticket": "\x00"})).status_code == 422
