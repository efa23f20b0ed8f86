"""`OrderProcessingSaga`: reserve_funds, verify_identity, approve_order; undone in reverse when one of them fails."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import timedelta
from typing import Any

from temporalio import workflow
from temporalio.common import RetryPolicy
from temporalio.exceptions import ActivityError, ApplicationError

with workflow.unsafe.imports_passed_through():
    from flotilla.contracts.names import ORDER_WORKFLOW
    from flotilla.contracts.orders import (
        CANCEL_UPDATE,
        GET_ORDER_QUERY,
        SAGA_VERB_UPDATE,
        OperatorVerb,
        OrderState,
        OrderStatus,
        SagaStepState,
        order_step_id,
    )
    from flotilla.contracts.requests import OrderRequest
    from flotilla.saga import NotParked, Saga, UnknownStep
    from workflow_worker.activities.signatures import orders as call

from flotilla.workflows.delegation import ATTEMPT_TIMEOUT, DATABASE_RETRIES, UNLIMITED_RETRIES, failure_reason
from flotilla.workflows.interruption import wait_ignoring_cancellation

_COMPENSATION_TIMEOUT = timedelta(minutes=10)
"""How long a compensation is retried before it is parked for an operator."""
_COMPENSATION_RETRIES = RetryPolicy(initial_interval=timedelta(seconds=1), maximum_interval=timedelta(seconds=60))
_NOTIFICATION_RETRIES = RetryPolicy(initial_interval=timedelta(seconds=1), maximum_attempts=5)
_STEPS_AND_COMPENSATIONS = (
    (call.RESERVE_FUNDS, call.RELEASE_FUNDS),
    (call.VERIFY_IDENTITY, call.REVOKE_VERIFICATION),
    (call.APPROVE_ORDER, call.CANCEL_ORDER),
)
_CHANGE_BY_OPERATOR_VERB = {
    "retry": "order_step_retried",
    "skip": "order_step_skipped",
    "resolve": "order_step_resolved",
}


@workflow.defn(name=ORDER_WORKFLOW)
class OrderProcessingSaga:
    """Ends approved, or rejected with its money back; in between it may wait, parked, for an operator."""

    @workflow.init
    def __init__(self, order: OrderRequest) -> None:
        self._order = replace(order, session_id=order.session_id or order.order_id)
        self._saga = Saga(self._record_step_change, _describe_failure)
        self._status: OrderStatus = "pending"
        self._confirmation: str | None = None
        self._reason: str | None = None
        self._version = 0
        self._recording = asyncio.Lock()

    @workflow.run
    async def run(self, _order: OrderRequest) -> OrderState:
        """Drives the order to its end and says which it was."""
        try:
            await self._run_forward_steps()
        except (ActivityError, asyncio.CancelledError) as error:
            self._reason = "cancelled" if failure_reason(error).cancelled else _describe_failure(error)
            await self._saga.compensate()
            self._status = "rejected"
        await wait_ignoring_cancellation(self._finish_order())
        return self._order_state()

    async def _run_forward_steps(self) -> None:
        await _execute_activity(call.BEGIN_ORDER, self._order, UNLIMITED_RETRIES)
        result: Any = None
        for step, compensation in _STEPS_AND_COMPENSATIONS:
            result = await self._saga.step(
                step,
                self._make_step_runner(step),
                compensation=compensation,
                undo=self._make_compensation_runner(step, compensation),
            )
        self._status, self._confirmation = "approved", result.number

    def _make_step_runner(self, step: str) -> Callable[[], Awaitable[Any]]:
        return lambda: _execute_activity(
            step,
            self._make_order_step(step),
            DATABASE_RETRIES,
            call.Confirmation if step == call.APPROVE_ORDER else None,
        )

    def _make_compensation_runner(self, step: str, compensation: str) -> Callable[[], Awaitable[Any]]:
        return lambda: workflow.execute_activity(
            compensation,
            self._make_order_step(step),
            start_to_close_timeout=ATTEMPT_TIMEOUT,
            schedule_to_close_timeout=_COMPENSATION_TIMEOUT,
            retry_policy=_COMPENSATION_RETRIES,
        )

    async def _finish_order(self) -> None:
        if self._status == "rejected":
            await self._notify_customer()
        await self._record_order_state(f"order_{self._status}", final=True)
        await workflow.wait_condition(workflow.all_handlers_finished)

    async def _notify_customer(self) -> None:
        """Best effort: a notification that fails changes nothing about the outcome."""
        try:
            await _execute_activity(
                call.SEND_REJECTION_NOTIFICATION,
                call.Rejection(key=self._order_reference(), reason=self._reason or ""),
                _NOTIFICATION_RETRIES,
            )
        except ActivityError as error:
            workflow.logger.warning("order %s: the customer was not told: %s", self._order.order_id, error.cause)

    @workflow.query(name=GET_ORDER_QUERY)
    def get_order(self) -> OrderState:
        """Where the order stands."""
        return self._order_state()

    @workflow.update(name=SAGA_VERB_UPDATE)
    async def operate(self, verb: OperatorVerb) -> OrderState:
        """Retry, skips or resolve a parked compensation.

        Raises:
            ApplicationError: `NotParked`, `UnknownStep` or `ReasonRequired`.
        """
        self._check_operator_verb(verb)
        step = self._saga.find_parked_step(verb.step)
        self._saga.apply_operator_verb(verb.step, verb.verb)
        self._status = "compensation_failed" if self._saga.is_parked else "pending"
        await self._record_order_state(_CHANGE_BY_OPERATOR_VERB[verb.verb], step=step, verb=verb)
        return self._order_state()

    @operate.validator
    def _check_operator_verb(self, verb: OperatorVerb) -> None:
        order = self._order
        if verb.order_id and (verb.tenant_id, verb.order_id) != (order.tenant_id, order.order_id):
            raise _update_refusal_error("UnknownOrder", f"this is not the saga of order {verb.order_id}")
        if verb.verb != "retry" and not (verb.reason or "").strip():
            raise _update_refusal_error("ReasonRequired", f"say why to {verb.verb} step {verb.step}")
        try:
            self._saga.find_parked_step(verb.step)
        except (NotParked, UnknownStep) as error:
            raise _update_refusal_error(type(error).__name__, str(error)) from error

    @workflow.update(name=CANCEL_UPDATE)
    async def cancel(self) -> bool:
        """Stop going forward and undo what was done; False if it is too late."""
        return self._status == "pending" and self._saga.cancel_forward_steps()

    async def _record_step_change(self, _steps: list[SagaStepState], step: SagaStepState) -> None:
        if step.status in ("skipped", "resolved"):
            return  # recorded with the operator's verb
        self._status = "compensation_failed" if self._saga.is_parked else "pending"
        undoing = step.status in ("compensated", "parked")
        await self._record_order_state(
            f"order_{'compensation' if undoing else 'step'}_{_CHANGE_SUFFIX_BY_STATUS[step.status]}", step=step
        )

    async def _record_order_state(
        self,
        change: str,
        *,
        step: SagaStepState | None = None,
        verb: OperatorVerb | None = None,
        final: bool = False,
    ) -> None:
        async with self._recording:
            self._version += 1
            record = call.OrderRecord(
                key=self._order_reference(),
                version=self._version,
                state=self._order_state(),
                change=change,
                step=step,
                verb=verb,
                final=final,
            )
            await wait_ignoring_cancellation(
                workflow.execute_local_activity(
                    call.RECORD_ORDER, record, start_to_close_timeout=ATTEMPT_TIMEOUT, retry_policy=UNLIMITED_RETRIES
                )
            )

    def _make_order_step(self, step: str) -> "call.OrderStep":
        order = self._order
        return call.OrderStep(key=self._order_reference(), step_id=order_step_id(step, order.order_id), order=order)

    def _order_reference(self) -> "call.OrderReference":
        order = self._order
        return call.OrderReference(tenant_id=order.tenant_id, order_id=order.order_id, session_id=order.session_id)

    def _order_state(self) -> OrderState:
        return OrderState(
            order_id=self._order.order_id,
            status=self._status,
            confirmation=self._confirmation,
            reason=self._reason,
            steps=self._saga.steps,
        )


_CHANGE_SUFFIX_BY_STATUS = {"done": "done", "failed": "failed", "compensated": "done", "parked": "parked"}


def _describe_failure(error: BaseException) -> str:
    trouble = failure_reason(error)
    return f"{trouble.type}: {trouble.message}"


def _update_refusal_error(kind: str, message: str) -> ApplicationError:
    return ApplicationError(message, type=kind, non_retryable=True)


async def _execute_activity(
    activity: str, message: object, retries: RetryPolicy, result_type: type[Any] | None = None
) -> Any:
    return await workflow.execute_activity(
        activity, message, result_type=result_type, start_to_close_timeout=ATTEMPT_TIMEOUT, retry_policy=retries
    )
