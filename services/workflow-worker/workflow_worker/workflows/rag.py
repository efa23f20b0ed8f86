"""`RagAgentWorkflow`: one question, researched, answered and saved."""

import asyncio
from dataclasses import replace
from datetime import timedelta
from typing import cast

from temporalio import workflow
from temporalio.exceptions import ActivityError, ApplicationError, FailureError

with workflow.unsafe.imports_passed_through():
    from flotilla.contracts.envelope import to_builtins
    from flotilla.contracts.json_types import JsonObject
    from flotilla.contracts.names import RAG_WORKFLOW, run_workflow_id
    from flotilla.contracts.requests import RAGRequest, RAGResponse
    from flotilla.contracts.session_events import ErrorRaised
    from flotilla.contracts.tasks import AgentTask, Turn
    from flotilla.workflows.calls import runs as call

from flotilla.workflows.delegation import (
    ANSWER_TIMEOUT,
    ATTEMPT_TIMEOUT,
    DATABASE_RETRIES,
    PATIENT,
    Trouble,
    delegate,
    status_of,
    trouble_of,
    uninterrupted,
)

_SAVE_ROUNDS = 60
_SAVE_PAUSE = timedelta(seconds=60)


@workflow.defn(name=RAG_WORKFLOW)
class RagAgentWorkflow:
    """begin_run → delegate research → delegate write → save_to_database.

    However it ends, the run's row is closed: as success, error, timeout or cancelled.
    """

    def __init__(self) -> None:
        self._step = "begin"
        self._limits_s: dict[str, float] = {}
        self._live: str | None = None

    @workflow.run
    async def run(self, request: RAGRequest) -> RAGResponse:
        """Answer `request`.

        Raises:
            ApplicationError: the step that failed, with the agent's error type.
        """
        if not request.run_id:
            request = replace(request, run_id=workflow.info().workflow_id.removeprefix(run_workflow_id("")))
        try:
            task_id = await self._answer(request)
            self._step = "save"
            return await uninterrupted(self._save(request, task_id))
        except (FailureError, asyncio.CancelledError) as error:
            trouble = trouble_of(error)
            await uninterrupted(self._close(request, trouble))
            if trouble.cancelled:
                raise asyncio.CancelledError from error
            raise ApplicationError(trouble.message, type=trouble.type, non_retryable=True) from error

    async def _answer(self, request: RAGRequest) -> str:
        begun = cast(
            "call.BegunRun",
            await workflow.execute_local_activity(
                call.BEGIN_RUN,
                request,
                result_type=call.BegunRun,
                start_to_close_timeout=ATTEMPT_TIMEOUT,
                schedule_to_close_timeout=ANSWER_TIMEOUT,
                retry_policy=PATIENT,
            ),
        )
        self._limits_s = begun.limits_s
        self._live = begun.live
        if request.steps:
            return await self._ask(request, "pipeline", request.steps, _input(request, begun.history))
        research = await self._ask(request, "research", ["research"], _input(request, []))
        return await self._ask(request, "write", ["write"], _input(request, begun.history), input_from=research)

    async def _ask(
        self, request: RAGRequest, step: str, agents: list[str], data: JsonObject, input_from: str | None = None
    ) -> str:
        """The id of the task whose stored result is this step's."""
        self._step = step
        task = AgentTask(
            task_id=f"{request.run_id}.{step}",
            agent=agents[0],
            slip=agents[1:],
            tenant_id=request.tenant_id,
            session_id=request.session_id,
            run_id=request.run_id,
            user_id=request.user_id,
            input=data,
            input_from=input_from,
            live=self._live,
        )

        async def on_pause(paused: bool) -> None:
            await self._show_pause(request, paused)

        return (await delegate(task, on_pause=on_pause, limits_s=self._limits_s)).task_id

    async def _show_pause(self, request: RAGRequest, paused: bool) -> None:
        await workflow.execute_local_activity(
            call.PAUSE_RUN,
            call.PauseRun(run=_key(request), paused=paused),
            start_to_close_timeout=ATTEMPT_TIMEOUT,
            retry_policy=PATIENT,
        )

    async def _save(self, request: RAGRequest, task_id: str) -> RAGResponse:
        """Save under the database's retry policy; while it is down, again a minute later: the answer is paid for."""
        answer = call.SaveAnswer(run=_key(request), task_id=task_id)
        for round_ in range(1, _SAVE_ROUNDS + 1):
            try:
                return cast(
                    "RAGResponse",
                    await workflow.execute_activity(
                        call.SAVE_TO_DATABASE,
                        answer,
                        result_type=RAGResponse,
                        start_to_close_timeout=ATTEMPT_TIMEOUT,
                        retry_policy=DATABASE_RETRIES,
                    ),
                )
            except ActivityError as error:
                if round_ == _SAVE_ROUNDS or _is_final(error):
                    raise
                await workflow.sleep(_SAVE_PAUSE, summary="until the database is back")
        raise AssertionError("unreachable: the last round returns or raises")

    async def _close(self, request: RAGRequest, trouble: Trouble) -> None:
        if trouble.type == call.RUN_CLOSED:
            return
        error = ErrorRaised(type=trouble.type, message=trouble.message, where=self._step, retryable=trouble.retryable)
        await workflow.execute_activity(
            call.CLOSE_RUN,
            call.CloseRun(run=_key(request), status=status_of(trouble), error=None if trouble.cancelled else error),
            start_to_close_timeout=ATTEMPT_TIMEOUT,
            retry_policy=PATIENT,
        )


def _input(request: RAGRequest, history: list[Turn]) -> JsonObject:
    data: dict[str, object] = {"query": request.query, "top_k": request.top_k}
    if history:
        data["history"] = to_builtins(history)
    return cast("JsonObject", data)


def _key(request: RAGRequest) -> call.RunKey:
    return call.RunKey(tenant_id=request.tenant_id, run_id=request.run_id)


def _is_final(error: ActivityError) -> bool:
    return isinstance(error.cause, ApplicationError) and error.cause.non_retryable
