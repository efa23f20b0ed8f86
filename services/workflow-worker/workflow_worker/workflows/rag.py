"""`RagAgentWorkflow`: one question, researched, answered and saved."""

from dataclasses import replace
from datetime import timedelta
from functools import partial
from typing import cast

from temporalio import workflow
from temporalio.exceptions import ActivityError, ApplicationError

with workflow.unsafe.imports_passed_through():
    from flotilla.contracts.envelope import to_builtins
    from flotilla.contracts.json_types import JsonObject
    from flotilla.contracts.names import RAG_WORKFLOW, run_workflow_id
    from flotilla.contracts.requests import RAGRequest, RAGResponse
    from flotilla.contracts.session_events import ErrorRaised
    from flotilla.contracts.tasks import Turn
    from flotilla.workflows.calls import runs as call

from flotilla.workflows.context import RunContext
from flotilla.workflows.delegation import (
    ANSWER_TIMEOUT,
    ATTEMPT_TIMEOUT,
    DATABASE_RETRIES,
    UNLIMITED_RETRIES,
    StepTrouble,
    run_status_for,
)
from flotilla.workflows.lifecycle import run_to_completion
from flotilla.workflows.run import Run

_MAX_SAVE_ROUNDS = 60
_PAUSE_BETWEEN_SAVE_ROUNDS = timedelta(seconds=60)


@workflow.defn(name=RAG_WORKFLOW)
class RagAgentWorkflow:
    """begin_run → ask research → ask write → save_to_database.

    However it ends, the run's row is closed: as success, error, timeout or cancelled.
    """

    def __init__(self) -> None:
        self._where = "begin"

    @workflow.run
    async def run(self, request: RAGRequest) -> RAGResponse | None:
        """Answer `request`; None where the last agent writes no answers: its result is in the run's row.

        Raises:
            ApplicationError: the step that failed, with the agent's error type.
        """
        if not request.run_id:
            request = replace(request, run_id=workflow.info().workflow_id.removeprefix(run_workflow_id("")))
        if not request.session_id:
            request = replace(request, session_id=request.run_id)
        return await run_to_completion(
            self._research_and_write(request), partial(self._save_answer, request), partial(self._close_run, request)
        )

    async def _research_and_write(self, request: RAGRequest) -> str:
        """The id of the task whose stored result is the answer."""
        begun = cast(
            "call.BegunRun",
            await workflow.execute_local_activity(
                call.BEGIN_RUN,
                request,
                result_type=call.BegunRun,
                start_to_close_timeout=ATTEMPT_TIMEOUT,
                schedule_to_close_timeout=ANSWER_TIMEOUT,
                retry_policy=UNLIMITED_RETRIES,
            ),
        )
        run = Run(_run_context(request, begun))
        if request.steps:
            return (await run.ask(request.steps, _research_input(request, begun.history), step="pipeline")).task_id
        research = await run.ask("research", _research_input(request, begun.history))
        return (await run.ask("write", _research_input(request, begun.history), input_from=research)).task_id

    async def _save_answer(self, request: RAGRequest, task_id: str) -> RAGResponse | None:
        """Save under the database's retry policy; while it is down, again a minute later: the answer is paid for."""
        self._where = "save"
        answer = call.SaveAnswer(run=_run_key(request), task_id=task_id)
        for round_ in range(1, _MAX_SAVE_ROUNDS + 1):
            try:
                return cast(
                    "RAGResponse | None",
                    await workflow.execute_activity(
                        call.SAVE_TO_DATABASE,
                        answer,
                        result_type=RAGResponse | None,  # type: ignore[arg-type]
                        start_to_close_timeout=ATTEMPT_TIMEOUT,
                        retry_policy=DATABASE_RETRIES,
                    ),
                )
            except ActivityError as error:
                if round_ == _MAX_SAVE_ROUNDS or _is_non_retryable_error(error):
                    raise
                await workflow.sleep(_PAUSE_BETWEEN_SAVE_ROUNDS, summary="until the database is back")
        raise AssertionError("unreachable: the last round returns or raises")

    async def _close_run(self, request: RAGRequest, trouble: StepTrouble) -> None:
        if trouble.type == call.RUN_CLOSED:
            return
        where = trouble.step or self._where
        error = ErrorRaised(type=trouble.type, message=trouble.message, where=where, retryable=trouble.retryable)
        await workflow.execute_activity(
            call.CLOSE_RUN,
            call.CloseRun(
                run=_run_key(request), status=run_status_for(trouble), error=None if trouble.cancelled else error
            ),
            start_to_close_timeout=ATTEMPT_TIMEOUT,
            retry_policy=UNLIMITED_RETRIES,
        )


def _research_input(request: RAGRequest, history: list[Turn]) -> JsonObject:
    data: dict[str, object] = {"query": request.query, "top_k": request.top_k}
    if history:
        data["history"] = to_builtins(history)
    return cast("JsonObject", data)


def _run_context(request: RAGRequest, begun: "call.BegunRun") -> RunContext:
    return RunContext(
        key=_run_key(request),
        session_id=request.session_id,
        user_id=request.user_id,
        limits_s=begun.limits_s,
        live=begun.live,
        replay=request.replay,
    )


def _run_key(request: RAGRequest) -> call.RunKey:
    return call.RunKey(tenant_id=request.tenant_id, run_id=request.run_id)


def _is_non_retryable_error(error: ActivityError) -> bool:
    return isinstance(error.cause, ApplicationError) and error.cause.non_retryable
