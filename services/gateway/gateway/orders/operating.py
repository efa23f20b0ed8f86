"""What operators do about a parked compensation: an Update to the saga, which records it."""

from dataclasses import replace
from datetime import timedelta

from temporalio.client import WorkflowUpdateFailedError, WorkflowUpdateRPCTimeoutOrCancelledError
from temporalio.exceptions import ApplicationError
from temporalio.service import RPCError

from flotilla.contracts.errors import NotFound, RetryLater
from flotilla.contracts.orders import SAGA_REFUSAL_STATUS, SAGA_VERB_UPDATE, OperatorVerb, OrderState
from gateway.problems import HttpProblem, snake_case
from gateway.schemas.orders import Order
from gateway.temporal import TemporalGateway, error_from_temporal

ANSWER_TIMEOUT = timedelta(seconds=5)


class VerbRefused(HttpProblem):
    """The saga does not take the verb; `code` says why."""

    def __init__(self, status: int, kind: str, message: str) -> None:
        super().__init__(status, message)
        self.code = snake_case(kind)


async def send_operator_verb(temporal: TemporalGateway, tenant_id: str, order: Order, verb: OperatorVerb) -> OrderState:
    """Give the order's state after `verb`.

    Raises:
        VerbRefused: the step is not parked, or there is no such step.
        RetryLater: no worker answered in time.
    """
    handle = await temporal.workflow_handle(order.workflow_id)
    try:
        state: OrderState = await handle.execute_update(
            SAGA_VERB_UPDATE,
            replace(verb, tenant_id=tenant_id, order_id=order.order_id),
            result_type=OrderState,
            rpc_timeout=ANSWER_TIMEOUT,
        )
    except WorkflowUpdateRPCTimeoutOrCancelledError as error:
        raise RetryLater(
            f"no worker answered for order {order.order_id}: read the order, and repeat the request if it had no effect"
        ) from error
    except WorkflowUpdateFailedError as error:
        raise _refused(error) from error
    except RPCError as error:
        cause = error_from_temporal(error, order.workflow_id)
        if isinstance(cause, NotFound):
            message = f"order {order.order_id} is over ({order.status}): no step of it is parked, nothing is left to do"
            raise VerbRefused(409, "NotParked", message) from error
        raise cause from error
    return state


def _refused(error: WorkflowUpdateFailedError) -> Exception:
    cause = error.cause
    if isinstance(cause, ApplicationError) and cause.type in SAGA_REFUSAL_STATUS:
        return VerbRefused(SAGA_REFUSAL_STATUS[cause.type], cause.type, cause.message)
    return error
