"""Which recorded runs are done again, with what of the recording, and for whom."""

from typing import Any, cast

import httpx
import pytest

from flotilla.contracts.envelope import from_json
from flotilla.contracts.requests import RAGRequest
from flotilla.contracts.session_events import AgentStateEvent, SessionEventKind
from flotilla.contracts.tasks import Turn
from flotilla.eventstore import AgentEventStore
from flotilla.postgres import open_pool, tenant_transaction
from tests.support.gateway import RunningGateway

AGENT = """
INSERT INTO flotilla_ops.agents (name, instance, version, stream, consumer_group, concurrency, input_schema,
    output_schema, replayable, last_seen) VALUES ('{name}', '{instance}', '1', 's', 'g', 1, '{{}}', '{{}}',
    {replayable}, now() - interval '{age}')
"""
ANSWERED = """
INSERT INTO flotilla.interactions (tenant_id, interaction_id, user_id, session_id, run_id, query, answer, sources,
    message_seq) SELECT 'acme', $1, 'olga', 's1', $1, $2, 'It is so.', '[]', head_seq FROM flotilla.sessions
"""


async def register(
    gateway: RunningGateway, name: str, *, replayable: bool = True, age: str = "1 second", instance: str = "i"
) -> None:
    await gateway.as_superuser(AGENT.format(name=name, instance=instance, replayable=replayable, age=age))


@pytest.fixture
async def agents(gateway: RunningGateway) -> None:
    for name in ("research", "write"):
        await register(gateway, name)


async def asked(gateway: RunningGateway, client: httpx.AsyncClient, query: str, *, finish: bool = True) -> str:
    answer = await client.post("/v1/sessions/s1/runs", json={"query": query, "top_k": 3})
    assert answer.status_code == 202, answer.text
    run_id = str(answer.json()["run_id"])
    if finish:
        await end_with(gateway, run_id, query)
    return run_id


async def end_with(gateway: RunningGateway, run_id: str, query: str) -> None:
    """End the run with an answer that later ones continue."""
    await gateway.finish(run_id)
    async with tenant_transaction(gateway.pool, "acme") as connection:
        await connection.execute(ANSWERED, run_id, query)


async def record(gateway: RunningGateway, *events: tuple[str, str, dict[str, Any]]) -> None:
    """Append events of runs (run id, kind, data) to the session s1, as agents do."""
    async with open_pool(gateway.database.dsn("flotilla_worker"), application="test") as pool:
        made = [
            AgentStateEvent(kind=cast("SessionEventKind", kind), data=data, source="/agents/research", run_id=run)
            for run, kind, data in events
        ]
        await AgentEventStore(pool, "acme").append("s1", made)


def call(run_id: str, number: str, args: dict[str, Any]) -> tuple[str, str, dict[str, Any]]:
    return run_id, "tool_call", {"tool": "look_up", "call_id": number, "args": args, "agent": "research"}


def end(run_id: str, number: str, result: Any, error: str | None = None) -> tuple[str, str, dict[str, Any]]:
    data = {"tool": "look_up", "call_id": number, "ok": error is None, "duration_ms": 1.0, "agent": "research"}
    return run_id, "tool_result", {**data, "result": result, "error": error}


async def replay_of(gateway: RunningGateway, client: httpx.AsyncClient, run_id: str, **body: Any) -> RAGRequest:
    answer = await client.post(f"/v1/runs/{run_id}/replays", json=body)
    assert answer.status_code == 202, answer.text
    [row] = await gateway.rows("SELECT request FROM flotilla.runs WHERE run_id = $1", answer.json()["run_id"])
    return from_json(row["request"], RAGRequest)


@pytest.mark.usefixtures("agents")
async def test_a_candidate_gets_the_runs_own_calls_and_what_was_said_before_it(
    gateway: RunningGateway, operator: httpx.AsyncClient
) -> None:
    first = await asked(gateway, operator, "one")
    second = await asked(gateway, operator, "two", finish=False)
    await record(
        gateway,
        call(second, "1", {"about": "rates"}),
        call(first, "2", {"about": "another run's"}),
        end(second, "1", "ten per cent"),
        end(first, "2", "no"),
        call(second, "3", {"about": "large"}),
        end(second, "3", {"truncated": True, "size_bytes": 70_000, "sha256": "x", "beginning": "…"}),
        call(second, "4", {"about": "failing"}),
        end(second, "4", None, "Invalid: no"),
    )
    await end_with(gateway, second, "two")
    await asked(gateway, operator, "three")
    request = await replay_of(gateway, operator, second, model="m", agents={"write": "research"}, index="live")
    assert (request.query, request.top_k, request.session_id[:7]) == ("two", 3, "replay-")
    replay = request.replay
    assert replay is not None
    assert (replay.of_run, replay.model, replay.index) == (second, "m", "live")
    assert [(one.args["about"], one.result, one.error) for one in replay.calls] == [
        ("rates", "ten per cent", None),
        ("failing", None, "Invalid: no"),
    ]
    [turn] = replay.history
    assert (turn, request.history) == (Turn(query="one", answer="It is so."), [turn])


@pytest.mark.usefixtures("agents")
async def test_what_cannot_be_done_again_is_refused(gateway: RunningGateway, operator: httpx.AsyncClient) -> None:
    active = await asked(gateway, operator, "one", finish=False)
    assert (await operator.post(f"/v1/runs/{active}/replays", json={})).status_code == 409
    await record(gateway, call(active, "1", {}), end(active, "1", "x" * 300_000))
    await record(gateway, call(active, "2", {}), end(active, "2", "x" * 300_000))
    await gateway.finish(active)
    for body, why in (
        ({}, "can be replayed"),
        ({"agents": {"other": "write"}}, "has no other"),
        ({"agents": {"write": "nobody"}}, "nobody is not there"),
        ({"index": "other"}, ""),
        ({"prompts": {"write": ""}}, ""),
    ):
        answer = await operator.post(f"/v1/runs/{active}/replays", json=body)
        assert (answer.status_code, why in answer.text) == (422, True), answer.text
    colleague = await gateway.client_of("carol", "operator")
    viewer = await gateway.client_of("vera", "viewer")
    assert (await colleague.post(f"/v1/runs/{active}/replays", json={})).status_code == 404
    assert (await viewer.post(f"/v1/runs/{active}/replays", json={})).status_code == 403


@pytest.mark.parametrize(
    ("replayable", "age", "is_refused"),
    [(False, "1 second", True), (True, "1 hour", True), (False, "1 hour", False)],
    ids=["an old instance beside a new one", "none was seen lately", "the old one is gone"],
)
async def test_every_instance_of_an_agent_has_to_block_effects(
    gateway: RunningGateway, operator: httpx.AsyncClient, *, replayable: bool, age: str, is_refused: bool
) -> None:
    await register(gateway, "research")
    if not replayable:
        await register(gateway, "write", instance="new")
    await register(gateway, "write", replayable=replayable, age=age)
    run_id = await asked(gateway, operator, "one")
    answer = await operator.post(f"/v1/runs/{run_id}/replays", json={})
    assert answer.status_code == (422 if is_refused else 202), answer.text
