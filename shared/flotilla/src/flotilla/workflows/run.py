"""`Run`: what the code of a workflow does, through agents and governed actions, with all of it in the session."""

from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Any, Literal, NoReturn, TypeVar, cast, overload

from temporalio import workflow
from temporalio.exceptions import ApplicationError, ChildWorkflowError, FailureError

from flotilla.contracts.json_types import JsonObject, JsonValue
from flotilla.contracts.requests import ActionRequest, RiskLevel
from flotilla.contracts.session_events import SessionEventKind
from flotilla.contracts.tasks import AgentTask, Replay, Turn
from flotilla.contracts.typed import Codec
from flotilla.workflows.calls import custom as call
from flotilla.workflows.calls.delegation import MAX_REASON_CHARS, TaskOutcome
from flotilla.workflows.calls.runs import PAUSE_RUN, PauseRun
from flotilla.workflows.children import ChildRuns
from flotilla.workflows.compensation import RunSaga
from flotilla.workflows.context import RunContext
from flotilla.workflows.delegation import (
    ATTEMPT_TIMEOUT,
    LLM_RETRIES,
    TIMED_OUT,
    UNLIMITED_RETRIES,
    StepTrouble,
    delegate,
    failure_reason,
)
from flotilla.workflows.gated_tools import wait_for_action_end
from flotilla.workflows.inbox import RunEventInbox
from flotilla.workflows.journal import RunJournal
from flotilla.workflows.parallel import gather_windowed
from flotilla.workflows.questions import RunQuestions
from flotilla.workflows.steps import ActionRefused, AgentResult, StepFailed, StepNames, action_failure_reason
from flotilla.workflows.values import decode_step_result, to_json_object

T = TypeVar("T")
DEFAULT_PARALLEL_STEPS = 16
"""How many steps `gather` has under way, unless told otherwise."""


class Run:
    """A run under way.

    A step is named after its agent or action: `write`, and `write:2` the second time. Names and order are the same
    when the workflow is replayed, so a step that is done is never done again.
    """

    def __init__(
        self,
        context: RunContext,
        journal: RunJournal | None = None,
        names: StepNames | None = None,
        *,
        inbox: RunEventInbox | None = None,
        questions: RunQuestions | None = None,
        go_on: Callable[[JsonObject], Coroutine[Any, Any, NoReturn]] | None = None,
    ) -> None:
        """`journal` writes the steps to the session; without one only agents and actions write there."""
        self._context = context
        self._journal = journal
        self._names = names or StepNames()
        self._inbox = inbox or RunEventInbox([], [])
        self._questions = questions or RunQuestions(context.key, self._inbox)
        self._children = ChildRuns(context, journal)
        self._go_on = go_on
        self.step = ""
        """The step that began last."""

    @property
    def run_id(self) -> str:
        """The run's id."""
        return self._context.key.run_id

    @property
    def session_id(self) -> str:
        """The session that the run belongs to."""
        return self._context.session_id

    @property
    def user_id(self) -> str:
        """Who started the run."""
        return self._context.user_id

    @property
    def history(self) -> Sequence[Turn]:
        """Earlier questions and answers of the session, oldest first, bounded in size."""
        return self._context.history

    @overload
    def ask(
        self,
        agent: str | Sequence[str],
        data: object,
        *,
        returns: None = None,
        input_from: AgentResult | Sequence[AgentResult] | None = None,
        timeout: timedelta | None = None,
        retries: int | None = None,
        step: str | None = None,
    ) -> Coroutine[Any, Any, AgentResult]: ...
    @overload
    def ask(
        self,
        agent: str | Sequence[str],
        data: object,
        *,
        returns: type[T],
        input_from: AgentResult | Sequence[AgentResult] | None = None,
        timeout: timedelta | None = None,
        retries: int | None = None,
        step: str | None = None,
    ) -> Coroutine[Any, Any, T]: ...
    def ask(
        self,
        agent: str | Sequence[str],
        data: object,
        *,
        returns: type[Any] | None = None,
        input_from: AgentResult | Sequence[AgentResult] | None = None,
        timeout: timedelta | None = None,
        retries: int | None = None,
        step: str | None = None,
    ) -> Coroutine[Any, Any, Any]:
        """Return what `agent` answers to `data` (a dataclass, a model or a mapping), as `returns` if that is given.

        Several agents make a routing slip: each gets the result of the one before. `input_from` lays the stored result
        of an earlier step under `data`; several results come as the list `results`. `timeout` is how long each agent
        may work at it, by default what the agent says; `retries` how often it is tried again after a failure that may
        pass, by default twice.

        Raises:
            StepFailed: the agent's last failure, with the step's name.
        """
        agents = [agent] if isinstance(agent, str) else list(agent)
        name = self._names.next(step or agents[0])
        replay = self._context.replay
        if replay is not None:
            agents = [replay.agents.get(one, one) for one in agents]
        task = AgentTask(
            task_id=f"{self.run_id}.{name}",
            agent=agents[0],
            slip=agents[1:],
            tenant_id=self._context.key.tenant_id,
            session_id=self.session_id,
            run_id=self.run_id,
            user_id=self.user_id,
            input=to_json_object(data),
            timeout_s=None if timeout is None else timeout.total_seconds(),
            live=self._context.live,
            replay=None if replay is None else _replay_for_agents(replay, agents),
        )
        policy = LLM_RETRIES if retries is None else replace(LLM_RETRIES, maximum_attempts=retries + 1)

        async def answered() -> TaskOutcome:
            whole = await self._with_input_from(task, input_from)
            return await delegate(whole, policy, on_pause=self._show_pause, limits_s=self._context.limits_s)

        return self._await_agent_answer(name, task, answered, returns)

    async def _await_agent_answer(
        self, name: str, task: AgentTask, answered: Callable[[], Awaitable[TaskOutcome]], returns: type[Any] | None
    ) -> Any:
        self.step = name
        try:
            outcome = await answered()
        except FailureError as error:
            trouble = failure_reason(error)
            await self._note_step(name, task.agent, task.task_id, f"{trouble.type}: {trouble.message}")
            raise StepFailed(name, trouble) from error
        await self._note_step(name, task.agent, outcome.task_id)
        if returns is None:
            return AgentResult(step=name, task_id=outcome.task_id, data=outcome.result, reference=outcome.result_ref)
        found = outcome.result if outcome.result is not None else await self._load_stored_result(name, outcome.task_id)
        return decode_step_result(name, found, returns)

    async def _note_step(self, name: str, agent: str, task_id: str, error: str | None = None) -> None:
        if self._journal is not None:
            self._journal.note_step_end(name, agent, task_id, error)
            await self._journal.append_notes()

    async def _with_input_from(self, task: AgentTask, source: AgentResult | Sequence[AgentResult] | None) -> AgentTask:
        if source is None:
            return task
        if isinstance(source, AgentResult):
            return replace(task, input_from=source.task_id)
        combined = f"{self.run_id}.{self._names.next('combined')}"
        parts = [part.task_id for part in source]
        await workflow.execute_local_activity(
            call.COMBINE_RESULTS,
            call.CombineResults(run=self._context.key, session_id=self.session_id, task_id=combined, parts=parts),
            start_to_close_timeout=ATTEMPT_TIMEOUT,
            retry_policy=UNLIMITED_RETRIES,
        )
        return replace(task, input_from=combined)

    async def _load_stored_result(self, name: str, task_id: str) -> JsonObject:
        try:
            loaded: call.LoadedResult = await workflow.execute_activity(
                call.LOAD_RESULT,
                call.StoredResultReference(run=self._context.key, task_id=task_id),
                result_type=call.LoadedResult,
                start_to_close_timeout=ATTEMPT_TIMEOUT,
                retry_policy=UNLIMITED_RETRIES,
            )
        except FailureError as error:
            raise StepFailed(name, failure_reason(error)) from error
        return loaded.data

    @overload
    async def gather(
        self, *steps: Coroutine[Any, Any, T], at_once: int = DEFAULT_PARALLEL_STEPS, on_error: Literal["fail"] = "fail"
    ) -> list[T]: ...
    @overload
    async def gather(
        self, *steps: Coroutine[Any, Any, T], at_once: int = DEFAULT_PARALLEL_STEPS, on_error: Literal["collect"]
    ) -> list[T | FailureError]: ...
    async def gather(
        self,
        *steps: Coroutine[Any, Any, T],
        at_once: int = DEFAULT_PARALLEL_STEPS,
        on_error: Literal["fail", "collect"] = "fail",
    ) -> list[Any]:
        """Return what the steps return, in their order, `at_once` of them under way at the same time.

        `on_error="fail"` ends the others with the first failure, and raises it; `"collect"` puts the error of a step
        that failed into its place.

        Raises:
            StepFailed: a step failed.
            ValueError: `at_once` is below 1.
        """
        if self._journal is None:
            return await gather_windowed(steps, at_once, collect=on_error == "collect")
        try:
            with self._journal.hold_notes_back():
                return await gather_windowed(steps, at_once, collect=on_error == "collect")
        finally:
            await self._journal.append_notes()

    async def execute(
        self,
        action: str,
        args: Mapping[str, Any] | None = None,
        *,
        description: str = "",
        risk_level: RiskLevel = "low",
    ) -> JsonValue:
        """Return the result of a governed action: policy says whether it is executed at once or waits for people.

        It is executed once, on exactly the arguments that were approved; people may edit them. The person who started
        the run is the requester, and does not vote.

        Raises:
            ActionRefused: it was rejected, nobody decided in time, or it failed.
        """
        name = self.step = self._names.next(action)
        request = ActionRequest(
            action=action,
            description=description or f"step {name} of run {self.run_id}",
            risk_level=risk_level,
            requested_by=self._context.acted_by or self.user_id,
            args=dict(args or {}),
            action_id=f"{self.run_id}.{name}",
            tenant_id=self._context.key.tenant_id,
            session_id=self.session_id,
            on_behalf_of=self.user_id if self._context.acted_by else "",
            run_id=self.run_id,
            requested_through=list(self._context.requested_through),
            requested_by_service=self._context.requested_by_service,
        )

        async def on_pause(paused: bool) -> None:
            await self._show_pause(paused, request.action_id)

        try:
            state = await wait_for_action_end(request, on_pause)
        except ChildWorkflowError as error:
            trouble = failure_reason(error.cause or error)
            raise ActionRefused(name, trouble, "cancelled" if trouble.cancelled else "failed") from error
        if state.status != "completed":
            raise ActionRefused(name, action_failure_reason(action, state), state.status)
        return state.result

    async def ask_person(
        self,
        question: str,
        schema: type[T],
        *,
        roles: Sequence[str] = (),
        deadline: timedelta | None = None,
        step: str | None = None,
    ) -> T:
        """Return what a person answers, as `schema`: a dataclass or a model, whose fields make the form.

        People with one of `roles` may answer, also in a session that they can't see; without roles, operators who may
        write to the session. `deadline` is how long from now. The first answer counts. Who asks the same
        question again after `continue_as_new` waits for the answer to the first.

        Raises:
            NotAnswered: nobody did in time; uncaught, the run ends as `timeout`.
        """
        name = self.step = self._names.next(step or "ask_person")
        asked_of = [roles] if isinstance(roles, str) else list(roles)
        return decode_step_result(
            name, await self._questions.ask_and_wait(name, question, schema, asked_of, deadline), schema
        )

    @overload
    async def start_child(
        self, workflow: str, data: object, *, returns: None = None, session: str | None = None, step: str | None = None
    ) -> JsonObject: ...
    @overload
    async def start_child(
        self, workflow: str, data: object, *, returns: type[T], session: str | None = None, step: str | None = None
    ) -> T: ...
    async def start_child(
        self,
        workflow: str,
        data: object,
        *,
        returns: type[Any] | None = None,
        session: str | None = None,
        step: str | None = None,
    ) -> Any:
        """Start a run of another workflow, and return what it returns, as `returns` if that is given.

        It is a run of the same person with a history of its own in `session`, by default one of its own that the same
        people see. It is cancelled with this run. The person who started this run and the owner of its session both
        need to be able to write to `session` by name.

        Raises:
            StepFailed: no worker serves the workflow, its session has an active run or is not theirs, too many runs are
                open, or it failed or was cancelled.
        """
        name = self.step = self._names.next(step or workflow)
        output = await self._children.run_child(name, workflow, to_json_object(data), session)
        return output if returns is None else decode_step_result(name, output or {}, returns)

    def saga(self) -> RunSaga:
        """Return a saga, for `async with`: what ends the block early undoes its steps, last first.

        A step's `undo` is registered before the step begins, so it has to bear that the step never happened. One that
        fails is parked: `POST /v1/runs/{run}/events/saga` with `{"step", "verb"}` (`retry`, `skip`, `resolve`) goes on.
        """
        return RunSaga(self._journal, self._inbox)

    async def record(self, kind: SessionEventKind, data: Mapping[str, Any]) -> None:
        """Append an event to the session, after everything that the run did before.

        `run_`, `action_`, `approval_` and `order_` begin the names of changes that are the services' own.

        Raises:
            ApplicationError: `Invalid`: the session does not take such an event.
        """
        if self._journal is None:
            raise ApplicationError("this run writes nothing to its session", type="Invalid", non_retryable=True)
        self._journal.add_author_note(call.RunNote(kind=kind, data=to_json_object(data)))
        await self._journal.append_notes()

    async def set(self, **variables: Any) -> None:
        """Set variables of the session's state."""
        await self.record("state_change", {"change": "variables_set", "set": variables})

    async def progress(self, text: str) -> None:
        """Tell those who follow the run how far it is; the session keeps it."""
        await self.record("state_change", {"change": "progress", "details": {"text": text}})

    @overload
    async def wait_for(self, name: str, kind: None = None, *, timeout: timedelta | None = None) -> JsonObject: ...
    @overload
    async def wait_for(self, name: str, kind: type[T], *, timeout: timedelta | None = None) -> T: ...
    async def wait_for(self, name: str, kind: type[Any] | None = None, *, timeout: timedelta | None = None) -> Any:
        """Return the next event called `name` from outside, as `kind` if that is given; it may have come before.

        `POST /v1/runs/{run}/events/{name}` sends one. An event that does not fit `kind` is recorded as an error of the
        session, and waited for again.

        Raises:
            StepFailed: none came within `timeout`; uncaught, the run ends as `timeout`.
        """
        step = self.step = f"wait_for {name}"
        until = None if timeout is None else workflow.now() + timeout
        while True:
            left = None if until is None else max(until - workflow.now(), timedelta())
            try:
                await workflow.wait_condition(lambda: self._inbox.has_event(name), timeout=left)
            except TimeoutError as error:
                message = f"no event {name} within {timeout}"
                raise StepFailed(
                    step, StepTrouble(TIMED_OUT, message, timed_out=True, cancelled=False, retryable=False)
                ) from error
            event = self._inbox.take_event(name)
            assert event is not None  # noqa: S101 - it was waited for, and nothing came between
            if kind is None:
                return event.data
            try:
                return Codec(kind, f"event {event.event_id}").decode(event.data)
            except ValueError as error:
                refused = {"type": "Undecodable", "message": str(error)[:MAX_REASON_CHARS], "where": step}
                await self.record("error", refused)

    async def continue_as_new(self, request: object) -> NoReturn:
        """Begin the workflow again with `request` and an empty history of Temporal: the same run, the same session.

        For loops without an end: `run.should_continue` says when. Names of steps are counted on; events that nobody
        waited for yet are kept.
        """
        if self._go_on is None:
            raise ApplicationError("this workflow can't continue as new", type="Invalid", non_retryable=True)
        await self._go_on(to_json_object(request))

    @property
    def should_continue(self) -> bool:
        """Whether the history of Temporal has become so long that `continue_as_new` is due."""
        return workflow.info().is_continue_as_new_suggested()

    async def usage(self) -> call.Usage:
        """Return how many calls and tokens of models the run's agents have used so far."""
        return cast(
            "call.Usage",
            await workflow.execute_activity(
                call.SUM_USAGE,
                self._context.key,
                result_type=call.Usage,
                start_to_close_timeout=ATTEMPT_TIMEOUT,
                retry_policy=UNLIMITED_RETRIES,
            ),
        )

    async def _show_pause(self, paused: bool, action_id: str = "") -> None:
        await workflow.execute_local_activity(
            PAUSE_RUN,
            PauseRun(run=self._context.key, paused=paused, action_id=action_id),
            start_to_close_timeout=ATTEMPT_TIMEOUT,
            retry_policy=UNLIMITED_RETRIES,
        )


def _replay_for_agents(replay: Replay, agents: Sequence[str]) -> Replay:
    """Without the calls and prompts of others, which may be long."""
    calls = [call for call in replay.calls if replay.agents.get(call.agent, call.agent) in agents]
    return replace(replay, calls=calls, prompts={name: text for name, text in replay.prompts.items() if name in agents})
