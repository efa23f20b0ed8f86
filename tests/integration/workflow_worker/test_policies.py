"""The workflow's retry policies, with an agent that is only its answers and a clock that skips."""

from collections import Counter
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

import pytest
from temporalio import activity
from temporalio.client import Client, WorkflowFailureError
from temporalio.exceptions import ApplicationError
from temporalio.worker import Worker

from flotilla.contracts.names import RAG_WORKFLOW, run_workflow_id
from flotilla.contracts.requests import RAGRequest, RAGResponse
from flotilla.contracts.tasks import AgentTask, Failure
from flotilla.workflows.calls import delegation
from flotilla.workflows.calls import runs as call
from tests.support.time_skipping import time_skipping_server
from workflow_worker.activities.delegation import failure_as_application_error
from workflow_worker.temporal import make_workflow_sandbox
from workflow_worker.workflows.rag import RagAgentWorkflow

ANSWER = RAGResponse(answer="42", sources=[], confidence=1.0)


@dataclass
class Scene:
    """What the activities answer, and what they were asked."""

    client: Client
    task_queue: str
    failures: dict[str, list[Failure]] = field(default_factory=dict)
    save_errors: list[Exception] = field(default_factory=list)
    asked: Counter[str] = field(default_factory=Counter)
    closed: list[call.CloseRun] = field(default_factory=list)
    tries: list[int] = field(default_factory=list)
    tried_at: list[datetime] = field(default_factory=list)
    """By the server's clock, which skips the waits."""

    @activity.defn(name=call.BEGIN_RUN)
    async def begin(self, _request: RAGRequest) -> call.BegunRun:
        return call.BegunRun()

    @activity.defn(name=delegation.DELEGATE)
    async def delegate(self, task: AgentTask) -> delegation.TaskOutcome:
        self.asked[task.agent] += 1
        if task.agent == "write":
            self.tries.append(task.attempt)
            self.tried_at.append(activity.info().started_time)
        if waiting := self.failures.get(task.agent):
            raise failure_as_application_error(task.task_id, task.agent, task.attempt, waiting.pop(0))
        return delegation.TaskOutcome(task_id=task.task_id, result={})

    @activity.defn(name=call.SAVE_TO_DATABASE)
    async def save(self, _answer: call.SaveAnswer) -> RAGResponse:
        self.asked["save"] += 1
        if self.save_errors:
            raise self.save_errors.pop(0)
        return ANSWER

    @activity.defn(name=call.CLOSE_RUN)
    async def close(self, end: call.CloseRun) -> None:
        self.closed.append(end)

    async def run(self) -> RAGResponse:
        request = RAGRequest(query="?", user_id="u", session_id="s", run_id=self.task_queue)
        answer: RAGResponse = await self.client.execute_workflow(
            RAG_WORKFLOW,
            request,
            id=run_workflow_id(self.task_queue),
            task_queue=self.task_queue,
            result_type=RAGResponse,
        )
        return answer


@pytest.fixture
async def scene(unique: Callable[[str], str]) -> AsyncIterator[Scene]:
    async with time_skipping_server() as environment:
        it = Scene(environment.client, unique("queue"))
        activities: list[Any] = [it.begin, it.delegate, it.save, it.close]
        async with Worker(
            it.client,
            task_queue=it.task_queue,
            workflows=[RagAgentWorkflow],
            activities=activities,
            workflow_runner=make_workflow_sandbox(),
        ):
            yield it


def broken(kind: str = "RateLimited", *, retryable: bool = True) -> Failure:
    return Failure(type=kind, message="no", retryable=retryable)


async def test_three_tries_and_then_the_run_is_closed_as_an_error(scene: Scene) -> None:
    scene.failures["write"] = [broken()] * 3
    with pytest.raises(WorkflowFailureError) as caught:
        await scene.run()
    assert isinstance(caught.value.cause, ApplicationError)
    assert caught.value.cause.type == "RateLimited"
    assert scene.tries == [1, 2, 3]
    [closed] = scene.closed
    assert closed.status == "error"
    assert closed.error is not None
    assert (closed.error.where, closed.error.type, closed.error.retryable) == ("write", "RateLimited", True)


async def test_the_third_try_can_still_succeed(scene: Scene) -> None:
    scene.failures["write"] = [broken()] * 2
    assert await scene.run() == ANSWER
    assert (scene.tries, scene.closed) == ([1, 2, 3], [])


@pytest.mark.parametrize(
    ("asked_s", "shortest_s", "longest_s"),
    [(None, 2, 10), (0.5, 2, 10), (45.0, 45, 60), (86_400.0, 300, 320), (1e308, 300, 320), (-1.0, 2, 10)],
)
async def test_a_try_is_put_off_as_long_as_the_endpoint_asks_within_five_minutes(
    scene: Scene, asked_s: float | None, shortest_s: float, longest_s: float
) -> None:
    scene.failures["write"] = [replace(broken(), retry_after_s=asked_s)]
    assert await scene.run() == ANSWER
    first, second = scene.tried_at
    assert shortest_s <= (second - first).total_seconds() <= longest_s


@pytest.mark.parametrize("failure", [broken("ValueError"), broken("Unauthorized", retryable=False)])
async def test_what_can_never_work_is_tried_once(scene: Scene, failure: Failure) -> None:
    scene.failures["write"] = [failure]
    with pytest.raises(WorkflowFailureError):
        await scene.run()
    assert scene.tries == [1]
    assert [end.status for end in scene.closed] == ["error"]


async def test_an_answer_waits_for_a_database_that_is_away_for_long(scene: Scene) -> None:
    scene.save_errors = [OSError("away")] * 23
    assert await scene.run() == ANSWER
    assert scene.asked == {"research": 1, "write": 1, "save": 24}


async def test_an_answer_that_can_never_be_saved_ends_the_run(scene: Scene) -> None:
    scene.save_errors = [ApplicationError("too large", type="Invalid", non_retryable=True)]
    with pytest.raises(WorkflowFailureError):
        await scene.run()
    assert scene.asked["save"] == 1
    assert [(end.status, end.error and end.error.where) for end in scene.closed] == [("error", "save")]
