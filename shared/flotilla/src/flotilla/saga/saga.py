"""Runs steps forward, and when one fails undoes them in reverse.

saga = Saga(on_change=record)
try:
    await saga.step("reserve_funds", reserve, compensation="release_funds", undo=release)
    await saga.step("approve_order", approve, compensation="cancel_order", undo=cancel)
except (StepError, asyncio.CancelledError) as error:
    await saga.compensate()

- A compensation is registered before its step starts: a step whose outcome nobody knows is undone as well. So an
  `undo` must bear that its step never happened, happened, or happens later (see tombstones in docs/guarantees.md).
- Compensations run in reverse order, one after the other, and no cancellation stops them.
- One that fails (after whatever retries `undo` makes itself) is parked: it waits, for days if it must, for an
  operator's `retry`, `skip` or `resolve`.
"""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, TypeAlias, TypeVar

from flotilla.contracts.errors import Conflict, NotFound
from flotilla.contracts.orders import SagaStepState, SagaStepStatus, Verb

T = TypeVar("T")
OnStepChange: TypeAlias = Callable[[list[SagaStepState], SagaStepState], Awaitable[None]]
"""Told of every lasting change: all steps, and the one that changed. Must not raise."""


class NotParked(Conflict):
    """The step's compensation does not wait for an operator."""


class UnknownStep(NotFound):
    """The saga has no such step."""


@dataclass(slots=True)
class _SagaStep:
    number: int
    name: str
    undo: Callable[[], Awaitable[object]] | None
    compensation: str | None
    status: SagaStepStatus = "running"
    error: str | None = None
    verbs: "asyncio.Queue[Verb]" = field(default_factory=asyncio.Queue)

    def to_state(self) -> SagaStepState:
        return SagaStepState(
            number=self.number, name=self.name, status=self.status, compensation=self.compensation, error=self.error
        )


class Saga:
    """One run of a saga. `describe` says in words why a step or a compensation failed."""

    def __init__(self, on_change: OnStepChange, describe: Callable[[BaseException], str] = str) -> None:
        self._on_change = on_change
        self._describe = describe
        self._steps: list[_SagaStep] = []
        self._current: asyncio.Future[Any] | None = None
        self._cancelled = False
        self._compensating = False

    @property
    def steps(self) -> list[SagaStepState]:
        """Every step that was started, in order."""
        return [step.to_state() for step in self._steps]

    @property
    def is_parked(self) -> bool:
        """Whether a compensation waits for an operator."""
        return any(step.status == "parked" for step in self._steps)

    async def step(
        self,
        name: str,
        action: Callable[[], Awaitable[T]],
        *,
        compensation: str | None = None,
        undo: Callable[[], Awaitable[object]] | None = None,
    ) -> T:
        """Does one step; its result.

        Raises:
            Exception: whatever `action` raises: call `compensate`.
            asyncio.CancelledError: the saga (or the workflow around it) was cancelled: call `compensate`.
        """
        step = _SagaStep(len(self._steps) + 1, name, undo, compensation)
        self._steps.append(step)
        try:
            result = await self._run_cancellable(action)
        except (Exception, asyncio.CancelledError) as error:
            step.status, step.error = "failed", self._describe(error)
            await _wait_to_end_despite_cancellation(self._report_step_change(step))
            raise
        step.status = "done"
        await _wait_to_end_despite_cancellation(self._report_step_change(step), self.cancel_forward_steps)
        if self._cancelled:
            raise asyncio.CancelledError
        return result

    async def _run_cancellable(self, action: Callable[[], Awaitable[T]]) -> T:
        if self._cancelled:
            raise asyncio.CancelledError
        work = asyncio.ensure_future(action())
        self._current = work
        try:
            return await work
        finally:
            self._current = None

    def cancel_forward_steps(self) -> bool:
        """Stop going forward; False if the saga is undoing already."""
        if self._compensating:
            return False
        self._cancelled = True
        if self._current is not None:
            self._current.cancel()
        return True

    async def compensate(self) -> None:
        """Undo every step that was started, last first; return when all are undone, skipped or resolved."""
        self._compensating = True
        await _wait_to_end_despite_cancellation(self._compensate_in_reverse())

    async def _compensate_in_reverse(self) -> None:
        for step in reversed(self._steps):
            if step.undo is not None:
                await self._compensate_step(step, step.undo)

    async def _compensate_step(self, step: _SagaStep, undo: Callable[[], Awaitable[object]]) -> None:
        while True:
            step.status = "compensating"
            try:
                await undo()
            except Exception as error:  # noqa: BLE001 - whatever it is, an operator decides about it
                step.status, step.error = "parked", self._describe(error)
            else:
                step.status = "compensated"
            await self._report_step_change(step)
            if step.status == "compensated":
                return
            verb = await step.verbs.get()
            if verb != "retry":
                step.status = "skipped" if verb == "skip" else "resolved"
                await self._report_step_change(step)
                return

    def find_parked_step(self, step: str) -> SagaStepState:
        """The parked step called (or numbered) `step`.

        Raises:
            UnknownStep: there is none of that name.
            NotParked: its compensation waits for nobody.
        """
        return self._require_parked_step(step).to_state()

    def apply_operator_verb(self, step: str, verb: Verb) -> None:
        """Hand an operator's verb to a parked compensation; it takes effect at once.

        Raises:
            UnknownStep: there is none of that name.
            NotParked: its compensation waits for nobody.
        """
        found = self._require_parked_step(step)
        found.status = "compensating"  # a second verb in the same instant finds nothing parked
        found.verbs.put_nowait(verb)

    def _require_parked_step(self, wanted: str) -> _SagaStep:
        found = next((step for step in self._steps if wanted in (step.name, str(step.number), step.compensation)), None)
        if found is None:
            raise UnknownStep(f"no step {wanted!r}: there are {', '.join(step.name for step in self._steps)}")
        if found.status != "parked":
            raise NotParked(f"step {found.name} is {found.status}: only a parked compensation can be operated")
        return found

    async def _report_step_change(self, step: _SagaStep) -> None:
        await self._on_change(self.steps, step.to_state())


async def _wait_to_end_despite_cancellation(work: Awaitable[T], on_cancel: Callable[[], object] | None = None) -> T:
    """Wait for `work` to its end, even when cancelled meanwhile; `on_cancel` receives the cancellation."""
    task = asyncio.ensure_future(work)
    while not task.done():
        try:
            await asyncio.shield(task)
        except asyncio.CancelledError:
            if task.cancelled():
                raise
            if on_cancel is not None:
                on_cancel()
    return task.result()
