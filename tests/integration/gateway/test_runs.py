import asyncio
from collections.abc import Callable
from typing import Any

import httpx
from temporalio.client import Client

from flotilla.bus import connect_redis
from flotilla.bus.live import LiveRunWriter
from flotilla.contracts.envelope import from_json
from flotilla.contracts.requests import RAGRequest
from flotilla.temporal import TASK_TIMEOUT
from tests.integration.gateway.conftest import Replica
from tests.support.gateway import RunningGateway
from tests.support.waiting import eventually

EVENTS = "SELECT convert_from(body, 'UTF8') AS body FROM flotilla.event_outbox WHERE session_id = $1 ORDER BY seq"


async def start(client: httpx.AsyncClient, session_id: str, query: str = "Who?", **more: Any) -> httpx.Response:
    headers = more.pop("headers", {})
    return await client.post(f"/v1/sessions/{session_id}/runs", json={"query": query, **more}, headers=headers)


async def test_a_run_is_committed_with_its_session_and_events_and_its_workflow_started(
    gateway: RunningGateway, operator: httpx.AsyncClient, temporal_client: Client, unique: Callable[[str], str]
) -> None:
    session_id = unique("s")
    trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
    answer = await start(operator, session_id, "Who inspects the lines?", headers={"traceparent": trace})
    assert answer.status_code == 202, answer.text
    run = answer.json()
    assert run == {
        "run_id": run["run_id"],
        "session_id": session_id,
        "workflow_id": f"run-{run['run_id']}",
        "status": "pending",
    }
    assert answer.headers["Location"] == f"/v1/runs/{run['run_id']}"
    (row,) = await gateway.rows("SELECT user_id, request, first_seq, traceparent FROM flotilla.runs")
    request = from_json(row["request"], RAGRequest)
    assert (row["user_id"], request.user_id, request.tenant_id, row["first_seq"]) == ("olga", "olga", "acme", 1)
    assert row["traceparent"].split("-")[1] == trace.split("-")[1]
    described = await temporal_client.get_workflow_handle(run["workflow_id"]).describe()
    assert described.workflow_type == "RagAgentWorkflow"
    assert described.task_queue == gateway.settings.task_queue
    config = described.raw_description.execution_config
    assert config.default_workflow_task_timeout.ToTimedelta() == TASK_TIMEOUT
    kinds = [(e["sequence"], e["type"].split(".")[2], e["runid"]) for e in await events_of(operator, session_id)]
    assert kinds == [(1, "message", run["run_id"]), (2, "state_change", run["run_id"])]


async def events_of(client: httpx.AsyncClient, session_id: str) -> list[dict[str, Any]]:
    answer = await client.get(f"/v1/sessions/{session_id}/events")
    assert answer.status_code == 200, answer.text
    events: list[dict[str, Any]] = answer.json()["events"]
    return events


async def test_events_go_out_byte_for_byte(
    gateway: RunningGateway, operator: httpx.AsyncClient, unique: Callable[[str], str]
) -> None:
    session_id = unique("s")
    await start(operator, session_id, 'Ünïcode "quoted" \\ back')
    stored = [row["body"] for row in await gateway.rows(EVENTS, session_id)]
    answer = await operator.get(f"/v1/sessions/{session_id}/events")
    assert answer.text == '{"events":[' + ",".join(stored) + '],"next_seq":null}'


async def test_pages_of_events_name_where_the_next_one_begins(
    operator: httpx.AsyncClient, unique: Callable[[str], str]
) -> None:
    session_id = unique("s")
    await start(operator, session_id)
    first = (await operator.get(f"/v1/sessions/{session_id}/events", params={"limit": 1})).json()
    assert [event["sequence"] for event in first["events"]] == [1]
    assert first["next_seq"] == 2
    rest = (await operator.get(f"/v1/sessions/{session_id}/events", params={"from_seq": 2})).json()
    assert [event["sequence"] for event in rest["events"]] == [2]
    assert rest["next_seq"] is None
    bounded = (await operator.get(f"/v1/sessions/{session_id}/events", params={"to_seq": 1})).json()
    assert bounded["next_seq"] is None


async def test_a_session_has_one_active_run_at_a_time(
    gateway: RunningGateway, operator: httpx.AsyncClient, unique: Callable[[str], str]
) -> None:
    session_id = unique("s")
    answers = await asyncio.gather(*(start(operator, session_id) for _ in range(6)))
    assert sorted(answer.status_code for answer in answers) == [202, 409, 409, 409, 409, 409]
    refused = next(answer for answer in answers if answer.status_code == 409).json()
    assert refused["code"] == "run_in_progress"
    assert len(await gateway.rows("SELECT 1 FROM flotilla.event_outbox")) == 2
    run_id = next(answer for answer in answers if answer.status_code == 202).json()["run_id"]
    await gateway.finish(run_id)
    assert (await start(operator, session_id)).status_code == 202


async def test_the_same_idempotency_key_starts_one_run(
    gateway: RunningGateway, operator: httpx.AsyncClient, unique: Callable[[str], str]
) -> None:
    session_id, key = unique("s"), {"Idempotency-Key": unique("key")}
    answers = await asyncio.gather(*(start(operator, session_id, headers=key) for _ in range(5)))
    assert {answer.status_code for answer in answers} == {202}
    assert len({answer.json()["run_id"] for answer in answers}) == 1
    assert len(await gateway.rows("SELECT 1 FROM flotilla.runs")) == 1
    await gateway.finish(answers[0].json()["run_id"])
    again = await start(operator, session_id, headers=key, wait_s=1)
    assert (again.status_code, again.json()["run_id"]) == (200, answers[0].json()["run_id"])


async def test_the_same_idempotency_key_with_another_body_is_409(
    gateway: RunningGateway, operator: httpx.AsyncClient, unique: Callable[[str], str]
) -> None:
    session_id, key = unique("s"), {"Idempotency-Key": unique("key")}
    await start(operator, session_id, "One?", headers=key)
    other = await start(operator, session_id, "Another?", headers=key)
    assert (other.status_code, other.json()["code"]) == (409, "idempotency_key_reused")
    elsewhere = await start(operator, unique("s"), "One?", headers=key)
    assert elsewhere.status_code == 409
    bob = await gateway.client_of("bob", "operator")
    assert (await start(bob, unique("s"), "Another?", headers=key)).status_code == 202


async def test_wait_s_answers_200_with_the_result_as_soon_as_the_run_is_done(
    gateway: RunningGateway, operator: httpx.AsyncClient, redis_url: str, unique: Callable[[str], str]
) -> None:
    session_id = unique("s")
    waiting = asyncio.create_task(start(operator, session_id, wait_s=20))
    run_id = await eventually(lambda: the_run(gateway))
    async with connect_redis(redis_url) as redis:
        await gateway.finish(run_id, LiveRunWriter(redis))
        async with asyncio.timeout(5):
            answer = await waiting
    assert answer.status_code == 200
    assert answer.json()["status"] == "success"
    assert answer.json()["result"]["answer"] == "The harbour master [1]."


async def test_wait_s_is_answered_without_redis(
    gateway: RunningGateway, operator: httpx.AsyncClient, redis_server: Any, unique: Callable[[str], str]
) -> None:
    redis_server.kill()
    waiting = asyncio.create_task(start(operator, unique("s"), wait_s=20))
    await gateway.finish(await eventually(lambda: the_run(gateway)))
    async with asyncio.timeout(10):
        assert (await waiting).status_code == 200


async def the_run(gateway: RunningGateway) -> str | None:
    rows = await gateway.rows("SELECT run_id FROM flotilla.runs")
    return rows[0]["run_id"] if rows else None


async def test_a_look_at_a_run_waits_for_its_end_but_no_longer_than_asked(
    gateway: RunningGateway, operator: httpx.AsyncClient, unique: Callable[[str], str]
) -> None:
    run_id = (await start(operator, unique("s"))).json()["run_id"]
    short = await operator.get(f"/v1/runs/{run_id}", params={"wait_s": 0.2})
    assert (short.status_code, short.json()["status"]) == (200, "pending")
    assert (await operator.get(f"/v1/runs/{run_id}", params={"wait_s": 61})).status_code == 422
    waiting = asyncio.create_task(operator.get(f"/v1/runs/{run_id}", params={"wait_s": 30}))
    await gateway.finish(run_id)
    assert (await waiting).json()["status"] == "success"


async def test_a_wait_takes_the_place_of_an_open_stream(replica: Replica, unique: Callable[[str], str]) -> None:
    async with replica(max_streams_per_tenant=1) as gateway:
        operator = await gateway.client_of("olga", "operator")
        other = (await start(operator, unique("s"))).json()["run_id"]
        waiting = asyncio.create_task(start(operator, unique("s"), wait_s=30))

        async def is_refused() -> bool:
            return (await operator.get(f"/v1/runs/{other}", params={"wait_s": 0.01})).status_code == 429

        await eventually(is_refused, timeout_s=10)
        assert (await operator.get(f"/v1/runs/{other}")).status_code == 200
        for row in await gateway.rows("SELECT run_id FROM flotilla.runs"):
            await gateway.finish(row["run_id"])
        assert (await waiting).status_code == 200


async def test_wait_s_answers_202_when_the_run_takes_longer(
    operator: httpx.AsyncClient, unique: Callable[[str], str]
) -> None:
    answer = await start(operator, unique("s"), wait_s=0.2)
    assert (answer.status_code, answer.json()["status"]) == (202, "pending")


async def test_a_run_is_accepted_while_temporal_is_away(replica: Replica, unique: Callable[[str], str]) -> None:
    async with replica(temporal_address="127.0.0.1:1") as gateway:
        operator = await gateway.client_of("olga", "operator")
        answer = await start(operator, unique("s"))
        assert (answer.status_code, answer.json()["status"]) == (202, "pending")
        (row,) = await gateway.rows("SELECT status FROM flotilla.runs")
        assert row["status"] == "pending"
        cancelled = await operator.post(f"/v1/runs/{answer.json()['run_id']}/cancel")
        assert cancelled.status_code == 503
        assert cancelled.headers["Retry-After"]


async def test_cancel_reaches_the_workflow_and_says_who_asked(
    operator: httpx.AsyncClient, temporal_client: Client, unique: Callable[[str], str]
) -> None:
    session_id = unique("s")
    run = (await start(operator, session_id)).json()
    answer = await operator.post(f"/v1/runs/{run['run_id']}/cancel")
    assert answer.status_code == 202
    history = await temporal_client.get_workflow_handle(run["workflow_id"]).fetch_history()
    assert any(event.HasField("workflow_execution_cancel_requested_event_attributes") for event in history.events)
    asked = (await events_of(operator, session_id))[-1]["data"]
    assert (asked["change"], asked["details"]["by"]) == ("run_cancel_requested", "olga")


async def test_cancel_of_a_finished_run_is_409_and_of_a_cancelled_one_202(
    gateway: RunningGateway, operator: httpx.AsyncClient, unique: Callable[[str], str]
) -> None:
    for status, expected in (("success", 409), ("cancelled", 202)):
        run = (await start(operator, unique("s"))).json()
        await gateway.finish(run["run_id"], status=status)
        assert (await operator.post(f"/v1/runs/{run['run_id']}/cancel")).status_code == expected


async def test_a_run_without_a_workflow_is_cancelled_at_once(
    gateway: RunningGateway, operator: httpx.AsyncClient, unique: Callable[[str], str]
) -> None:
    run = (await start(operator, unique("s"))).json()
    await gateway.rows("UPDATE flotilla.runs SET workflow_id = $1 RETURNING 1", unique("never-started"))
    answer = await operator.post(f"/v1/runs/{run['run_id']}/cancel")
    assert (answer.status_code, answer.json()["status"]) == (202, "cancelled")
    assert (await operator.get(f"/v1/runs/{run['run_id']}")).json()["status"] == "cancelled"


async def test_runs_are_listed_newest_first_over_pages(
    gateway: RunningGateway, operator: httpx.AsyncClient, unique: Callable[[str], str]
) -> None:
    sessions = [unique("s") for _ in range(5)]
    for session_id in sessions:
        await start(operator, session_id)
    seen: list[str] = []
    cursor: str | None = None
    while True:
        params = {"limit": "2", **({"cursor": cursor} if cursor else {})}
        page = (await operator.get("/v1/runs", params=params)).json()
        seen += [run["session_id"] for run in page["runs"]]
        cursor = page["next_cursor"]
        if cursor is None:
            break
    assert seen == sessions[::-1]
    only = (await operator.get("/v1/runs", params={"session_id": sessions[0], "status": "pending"})).json()["runs"]
    assert [run["session_id"] for run in only] == sessions[:1]


async def test_steps_show_the_workflow_s_history(
    operator: httpx.AsyncClient, gateway: RunningGateway, unique: Callable[[str], str]
) -> None:
    run = (await start(operator, session := unique("s"))).json()
    await gateway.rows(
        "INSERT INTO flotilla.agent_tasks "
        "(tenant_id, task_id, agent, session_id, run_id, status, attempt, duration_ms) "
        "VALUES ('acme', $1, 'research', $2, $3, 'done', 2, 12.5) RETURNING 1",
        f"{run['run_id']}.research",
        session,
        run["run_id"],
    )
    answer = (await operator.get(f"/v1/runs/{run['run_id']}/steps")).json()
    assert answer["workflow_history"] == "complete"
    (step,) = answer["steps"]
    assert (step["kind"], step["step"], step["attempt"], step["duration_ms"]) == ("delegation", "research", 2, 12.5)


BAD_QUESTIONS: list[object] = [
    {}, {"query": ""}, {"query": "  \n"}, {"query": "x" * 100_000}, {"query": 5}, {"query": "q", "wait_s": 61},
    {"query": "q", "reviewer": "eve"}, {"query": "a\x00b"}, {"query": "q", "wait_s": -1}, [], "q", None,
]  # fmt: skip


async def test_bad_questions_are_422_and_leave_nothing(gateway: RunningGateway, operator: httpx.AsyncClient) -> None:
    for body in BAD_QUESTIONS:
        answer = await operator.post("/v1/sessions/s/runs", json=body)
        assert answer.status_code == 422, (body, answer.text)
        assert answer.headers["content-type"] == "application/problem+json"
        assert answer.json()["errors"]
    assert await gateway.rows("SELECT 1 FROM flotilla.sessions") == []


async def test_what_does_not_exist_is_404_and_named(operator: httpx.AsyncClient) -> None:
    for path in (
        "runs/nobody", "runs/nobody/events", "runs/nobody/steps", "sessions/nobody", "sessions/nobody/events",
        "sessions/nobody/state", "orders/nobody", "actions/nobody", "approvals/nobody", "tasks/nobody",
        "dead-letters/nobody",
    ):  # fmt: skip
        answer = await operator.get(f"/v1/{path}")
        assert answer.status_code == 404, path
        assert "nobody" in answer.json()["detail"]
