"""Sagas of a run: what was done is undone in reverse when a later step fails; what can't be waits for people."""

import asyncio
from types import TracebackType
from typing import Literal, Self, cast, get_args

from temporalio import workflow

from flotilla.contracts.envelope import to_builtins
from flotilla.contracts.json_types import JsonObject
from flotilla.contracts.orders import SagaStepState, Verb
from flotilla.saga import NotParked, Saga, UnknownStep
from flotilla.workflows.delegation import failure_reason
from flotilla.workflows.inbox import RunEventInbox
from flotilla.workflows.journal import RunJournal

SAGA_OPERATOR_EVENT = "saga"
"""The event from outside that brings an operator's verb: `{"step", "verb", "reason"}`."""


class RunSaga(Saga):
    """A saga as an `async with` block: whatever ends the block early undoes the steps that were begun in it."""

    def __init__(self, journal: RunJournal | None, inbox: RunEventInbox) -> None:
        super().__init__(self._record_step_change, _describe_failure)
        self._journal = journal
        self._inbox = inbox

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _trace: TracebackType | None
    ) -> Literal[False]:
        # Not when the workflow continues as new: that is no failure.
        if isinstance(error, Exception | asyncio.CancelledError):
            await self.compensate()
        return False

    async def compensate(self) -> None:
        """Undo every step that was begun, last first; return when all are undone, skipped or resolved."""
        listening = asyncio.create_task(self._apply_operator_verbs())
        try:
            await super().compensate()
        finally:
            listening.cancel()

    async def _apply_operator_verbs(self) -> None:
        """Hand operators' verbs to what is parked. One that fits nothing changes nothing."""
        while True:
            await workflow.wait_condition(lambda: self._inbox.has_event(SAGA_OPERATOR_EVENT))
            event = self._inbox.take_event(SAGA_OPERATOR_EVENT)
            verb = event.data.get("verb") if event else None
            if event is None or verb not in get_args(Verb):
                continue
            try:
                self.apply_operator_verb(str(event.data.get("step")), cast("Verb", verb))
            except (NotParked, UnknownStep) as refused:
                workflow.logger.warning("saga: %s", refused)

    async def _record_step_change(self, _steps: list[SagaStepState], changed: SagaStepState) -> None:
        if self._journal is not None:
            details: JsonObject = to_builtins(changed)
            self._journal.note_run_change("run_saga_step", details)
            await self._journal.append_notes()


def _describe_failure(error: BaseException) -> str:
    trouble = failure_reason(error)
    return f"{trouble.type}: {trouble.message}"
