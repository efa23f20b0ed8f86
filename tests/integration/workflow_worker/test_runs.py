"""A run's row, its session events, and how both end when something fails."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import asyncpg
import pytest
from temporalio.client import WorkflowFailureError
from temporalio.exceptions import ApplicationError
from temporalio.testing import ActivityEnvironment

from flotilla.bus.live import LiveRunWriter
from flotilla.contracts.envelope import to_json
from flotilla.contracts.names import run_stream, run_workflow_id
from flotilla.contracts.notices import Notify
from flotilla.contracts.requests import RAGRequest
from flotilla.contracts.tasks import Replay
from flotilla.eventstore.turns import effective_ranges_newest_first
from flotilla.postgres import Pool, tenant_transaction
from flotilla.workflows.calls.runs import CloseRun, RunKey, SaveAnswer
from tests.integration.workflow_worker import agents
from tests.support.foreign_agent import foreign_agent
from tests.support.postgres import Database
from tests.support.waiting import eventually
from tests.support.worker import RunningWorker
from workflow_worker.activities.runs import RunActivities

ADD_SESSION = "INSERT INTO flotilla.sessions (tenant_id, session_id, user_id) VALUES ('acme', $1, 'alice')"
ADD_FORK = """
INSERT INTO flotilla.sessions (tenant_id, session_id, user_id, parent_session_id, forked_at_seq, head_seq)
VALUES ('acme', $1, 'alice', $2, $3, $3)
"""
ADD_RUN = """
INSERT INTO flotilla.runs (tenant_id, run_id, session_id, user_id, workflow_id, query, status, request, created_at)
VALUES ('acme', $1, $2, 'alice', $3, 'q', $4, $5, now() - make_interval(secs => $6))
"""
ADD_RESULT = """
INSERT INTO flotilla.agent_tasks (tenant_id, task_id, agent, session_id, status, result)
VALUES ('acme', $1, 'write', $2, 'done', $3)
"""


async def insert_run(pool: Pool, request: RAGRequest, status: str = "pending", age_s: int = 0) -> None:
    async with tenant_transaction(pool, "acme") as connection:
        await connection.execute(ADD_SESSION, request.session_id)
        workflow_id = run_workflow_id(request.run_id)
        body = to_json(request).decode()
        await connection.execute(ADD_RUN, request.run_id, request.session_id, workflow_id, status, body, age_s)


async def test_saving_twice_writes_once_and_answers_the_same(worker: RunningWorker, question: RAGRequest) -> None:
    await insert_run(worker.pool, question, "running")
    written = (await agents.write({"task_id": "t1"}))["result"]
    async with tenant_transaction(worker.pool, "acme") as connection:
        await connection.execute(ADD_RESULT, "t1", question.session_id, to_json(written).decode())
    records = RunActivities(worker.pool, LiveRunWriter(worker.redis))
    answer = SaveAnswer(run=RunKey(tenant_id="acme", run_id=question.run_id), task_id="t1")
    first = await ActivityEnvironment().run(records.save_to_database, answer)
    second = await ActivityEnvironment().run(records.save_to_database, answer)
    assert first == second
    assert len(await worker.rows("acme", "SELECT 1 FROM flotilla.interactions")) == 1
    assert len(await worker.events("acme", question.session_id)) == 2
    [row] = await worker.rows("acme", "SELECT live_key FROM flotilla.runs WHERE run_id = $1", question.run_id)
    live_key = row["live_key"]
    assert len(live_key) == 32
    live: Any = await worker.redis.xrange(run_stream(question.run_id, live_key))
    assert [fields[b"kind"] for _, fields in live] == [b"done"]


async def test_a_closed_run_is_neither_saved_nor_closed_again(worker: RunningWorker, question: RAGRequest) -> None:
    await insert_run(worker.pool, question, "running")
    records = RunActivities(worker.pool, LiveRunWriter(worker.redis))
    key = RunKey(tenant_id="acme", run_id=question.run_id)
    environment = ActivityEnvironment()
    await environment.run(records.close_run, CloseRun(run=key, status="cancelled"))
    await environment.run(records.close_run, CloseRun(run=key, status="error"))
    assert (await worker.run_row(question))["status"] == "cancelled"
    written = (await agents.write({"task_id": "t1"}))["result"]
    async with tenant_transaction(worker.pool, "acme") as connection:
        await connection.execute(ADD_RESULT, "t1", question.session_id, to_json(written).decode())
    with pytest.raises(ApplicationError) as caught:
        await environment.run(records.save_to_database, SaveAnswer(run=key, task_id="t1"))
    assert caught.value.type == "RunClosed"
    assert len(await worker.events("acme", question.session_id)) == 1


async def test_the_tenants_receiver_is_notified_of_no_replay(
    worker: RunningWorker, question: RAGRequest, database: Database
) -> None:
    asked = replace(question, run_id="asked", session_id="asked")
    replayed = replace(question, run_id="replayed", session_id="replayed", replay=Replay(of_run="asked"))
    notify = to_json(Notify(url="https://hooks.example.com/", secret_ref="hooks")).decode()
    connection = await asyncpg.connect(database.superuser_dsn)
    await connection.execute("INSERT INTO flotilla.tenant_notify VALUES ('acme', $1, 'test')", notify)
    await connection.close()
    records = RunActivities(worker.pool, LiveRunWriter(worker.redis))
    for request in (asked, replayed):
        await insert_run(worker.pool, request, "running")
        key = RunKey(tenant_id="acme", run_id=request.run_id)
        await ActivityEnvironment().run(records.close_run, CloseRun(run=key, status="cancelled"))
    assert [row["run_id"] for row in await worker.rows("acme", "SELECT run_id FROM flotilla.run_notices")] == ["asked"]


async def test_a_second_run_in_a_busy_session_fails_and_leaves_the_first_alone(
    worker: RunningWorker, question: RAGRequest
) -> None:
    await insert_run(worker.pool, replace(question, run_id="first"), "running")
    with pytest.raises(WorkflowFailureError) as caught:
        await (await worker.start_run(question)).result()
    assert isinstance(caught.value.cause, ApplicationError)
    assert caught.value.cause.type == "RunInProgress"
    [row] = await worker.rows("acme", "SELECT run_id, status FROM flotilla.runs")
    assert tuple(row) == ("first", "running")


async def test_the_workflow_of_a_run_left_pending_is_started(worker: RunningWorker, question: RAGRequest) -> None:
    async with (
        foreign_agent(worker.redis, "research", agents.research),
        foreign_agent(worker.redis, "write", agents.write),
    ):
        await insert_run(worker.pool, question, age_s=3600)

        async def succeeded() -> bool:
            return str((await worker.run_row(question))["status"]) == "success"

        await eventually(succeeded, timeout_s=20)


async def test_a_run_whose_workflow_was_terminated_is_closed(worker: RunningWorker, question: RAGRequest) -> None:
    await insert_run(worker.pool, question, age_s=3600)
    handle = await worker.start_run(question)

    async def status() -> str:
        return str((await worker.run_row(question))["status"])

    async def is_running() -> bool:
        return await status() == "running"

    async def is_closed() -> bool:
        return await status() == "cancelled"

    await eventually(is_running)
    await handle.terminate(reason="by an operator")
    await eventually(is_closed, timeout_s=20)
    assert "by an operator" in (await worker.run_row(question))["error"]
    last = (await worker.events("acme", question.session_id))[-1]
    assert last.data["change"] == "run_finished"


async def test_earlier_turns_are_in_the_prompt_as_forks_and_rollbacks_left_them(
    worker: RunningWorker, question: RAGRequest, unique: Callable[[str], str]
) -> None:
    async with (
        foreign_agent(worker.redis, "research", agents.research),
        foreign_agent(worker.redis, "write", agents.write) as writer,
    ):

        async def ask(session_id: str, query: str) -> list[str]:
            run = replace(question, session_id=session_id, query=query, run_id=unique("run"))
            await (await worker.start_run(run)).result()
            return [turn["query"] for turn in writer.seen[-1]["input"].get("history", [])]

        first = question.session_id
        assert await ask(first, "one") == []
        assert await ask(first, "two") == ["one"]
        # Each run has four events: "one" is answered at 3, "two" at 7.
        async with tenant_transaction(worker.pool, "acme") as connection:
            await connection.execute(ADD_FORK, "child", first, 6)
            await connection.execute("INSERT INTO flotilla.session_rollbacks VALUES ('acme', $1, 9, 4)", first)
            await connection.execute("UPDATE flotilla.sessions SET head_seq = 9 WHERE session_id = $1", first)
        assert await ask(first, "three") == ["one"]
        assert await ask(first, "four") == ["one", "three"]
        assert await ask("child", "other") == ["one"]
        assert await ask("child", "another") == ["one", "other"]


@pytest.mark.parametrize(
    ("head", "rollbacks", "stretches"),
    [
        (5, {}, [(0, 5)]),
        (9, {9: 4}, [(0, 4)]),
        (12, {9: 4}, [(9, 12), (0, 4)]),
        (12, {5: 2, 10: 7}, [(10, 12), (5, 7), (0, 2)]),
        (12, {10: 4, 5: 2}, [(10, 12), (0, 4)]),
        (0, {}, []),
    ],
)
def test_what_counts_is_found_by_walking_back_over_rollbacks(
    head: int, rollbacks: dict[int, int], stretches: list[tuple[int, int]]
) -> None:
    assert list(effective_ranges_newest_first(head, rollbacks)) == stretches
