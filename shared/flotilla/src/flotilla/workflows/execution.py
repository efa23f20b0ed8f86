"""One run of a declared workflow, from its row to its end."""

from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import NoReturn, cast

from temporalio import workflow
from temporalio.exceptions import ApplicationError, FailureError

from flotilla.contracts.envelope import to_json
from flotilla.contracts.json_types import JsonObject
from flotilla.contracts.names import run_workflow_id
from flotilla.contracts.requests import Carried, WorkflowRequest
from flotilla.contracts.session_events import ErrorRaised
from flotilla.workflows.calls import custom as call
from flotilla.workflows.calls.runs import CLOSE_RUN, RUN_CLOSED, BegunRun, CloseRun, RunKey
from flotilla.workflows.context import RunContext
from flotilla.workflows.delegation import (
    ANSWER_TIMEOUT,
    ATTEMPT_TIMEOUT,
    UNLIMITED_RETRIES,
    StepTrouble,
    run_status_for,
)
from flotilla.workflows.inbox import RunEventInbox
from flotilla.workflows.journal import RunJournal
from flotilla.workflows.lifecycle import run_to_completion
from flotilla.workflows.questions import RunQuestions
from flotilla.workflows.run import Run
from flotilla.workflows.steps import StepNames

WorkflowBody = Callable[[Run, JsonObject], Awaitable[JsonObject | None]]


async def run_workflow_to_completion(name: str, request: WorkflowRequest, work: WorkflowBody) -> JsonObject | None:
    """Begin the run, do `work` and finish it; close it however it ends.

    Raises:
        ApplicationError: why the run failed.
        asyncio.CancelledError: the run was cancelled.
    """
    if not request.run_id:
        request = replace(request, run_id=workflow.info().workflow_id.removeprefix(run_workflow_id("")))
    if not request.session_id:
        request = replace(request, session_id=request.run_id)
    execution = _WorkflowExecution(name, request, work)
    return await run_to_completion(execution.run_body(), execution.finish_run, execution.close_run)


class _WorkflowExecution:
    def __init__(self, name: str, request: WorkflowRequest, work: WorkflowBody) -> None:
        self._name = name
        self._request = request
        self._work = work
        self._key = RunKey(tenant_id=request.tenant_id, run_id=request.run_id)
        self._journal = RunJournal(self._key, name, request.carried.records)
        self._inbox = RunEventInbox(request.carried.events, request.carried.seen)
        self._questions = RunQuestions(self._key, self._inbox, request.carried.questions)
        self._names = StepNames(request.carried.steps)

    async def run_body(self) -> JsonObject | None:
        self._inbox.receive_events()
        run = await self._begin_run()
        try:
            output = await self._work(run, self._request.input)
        except FailureError:
            raise
        except Exception as error:
            # Not retried until somebody deploys other code, as Temporal would: who waits for the run learns of it.
            raise ApplicationError(str(error), type=type(error).__name__, non_retryable=True) from error
        size = len(to_json(output))
        if size > call.MAX_LOADED_BYTES:
            raise ApplicationError(
                f"workflow {self._name} returned {size} bytes, {call.MAX_LOADED_BYTES} are allowed: return a reference",
                type="Oversize",
                non_retryable=True,
            )
        return output

    async def _begin_run(self) -> Run:
        begun = cast(
            "BegunRun",
            await workflow.execute_local_activity(
                call.BEGIN_WORKFLOW,
                self._request,
                result_type=BegunRun,
                start_to_close_timeout=ATTEMPT_TIMEOUT,
                schedule_to_close_timeout=ANSWER_TIMEOUT,
                retry_policy=UNLIMITED_RETRIES,
            ),
        )
        context = RunContext(
            key=self._key,
            session_id=self._request.session_id,
            user_id=self._request.user_id,
            history=begun.history,
            limits_s=begun.limits_s,
            live=begun.live,
            requested_through=self._request.requested_through,
            requested_by_service=self._request.requested_by_service,
            acted_by=self._request.acted_by,
        )
        return Run(
            context,
            self._journal,
            self._names,
            inbox=self._inbox,
            questions=self._questions,
            go_on=self._continue_as_new,
        )

    async def _continue_as_new(self, data: JsonObject) -> NoReturn:
        await self._journal.append_notes()
        carried = Carried(
            steps=self._names.used,
            records=self._journal.written,
            events=self._inbox.waiting,
            seen=self._inbox.seen,
            questions=self._questions.open_questions,
        )
        workflow.continue_as_new(replace(self._request, input=data, carried=carried))

    async def finish_run(self, output: JsonObject | None) -> JsonObject | None:
        await self._journal.append_notes()
        await workflow.execute_activity(
            call.FINISH_WORKFLOW,
            call.FinishedWorkflow(run=self._key, output=output),
            start_to_close_timeout=ATTEMPT_TIMEOUT,
            retry_policy=UNLIMITED_RETRIES,
        )
        return output

    async def close_run(self, trouble: StepTrouble) -> None:
        if trouble.type == RUN_CLOSED:
            return
        await self._journal.append_notes()
        error = ErrorRaised(
            type=trouble.type, message=trouble.message, where=trouble.step or "workflow", retryable=trouble.retryable
        )
        await workflow.execute_activity(
            CLOSE_RUN,
            CloseRun(run=self._key, status=run_status_for(trouble), error=None if trouble.cancelled else error),
            start_to_close_timeout=ATTEMPT_TIMEOUT,
            retry_policy=UNLIMITED_RETRIES,
        )
