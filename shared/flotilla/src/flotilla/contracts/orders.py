"""Orders: the names, states and messages of `OrderProcessingSaga`.

Who inserts what when an order is placed: the gateway inserts session, `orders` row (status `pending`) and
`state_change{order_placed}`, then starts `OrderProcessingSaga(OrderRequest)` with the id
`order_workflow_id(tenant, order_id)`.
The worker starts the workflow of an order that was left pending, and writes everything after.
"""

from dataclasses import dataclass, field
from typing import Literal, TypeAlias

GET_ORDER_QUERY = "get_order"
"""Answers with an `OrderState`."""
SAGA_VERB_UPDATE = "operate"
"""Takes an `OperatorVerb`, answers with the `OrderState` after it; refuses by the types of `SAGA_REFUSAL_STATUS`."""
CANCEL_UPDATE = "cancel"
"""Asks the saga to stop and compensate; answers True if it still could."""

SAGA_REFUSAL_STATUS: dict[str, int] = {"NotParked": 409, "UnknownStep": 404, "UnknownOrder": 404, "ReasonRequired": 422}

OrderStatus: TypeAlias = Literal["pending", "approved", "rejected", "compensation_failed"]
SagaStepStatus: TypeAlias = Literal[
    "pending", "running", "done", "failed", "compensating", "compensated", "parked", "skipped", "resolved"
]
Verb: TypeAlias = Literal["retry", "skip", "resolve"]


@dataclass(frozen=True, slots=True, kw_only=True)
class SagaStepState:
    """One step of a saga, as people see it."""

    number: int
    """From 1, in the order of execution."""
    name: str
    status: SagaStepStatus
    compensation: str | None = None
    error: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class OrderState:
    """Answer of the query `get_order`, and what `OrderProcessingSaga` returns."""

    order_id: str
    status: OrderStatus
    confirmation: str | None = None
    reason: str | None = None
    steps: list[SagaStepState] = field(default_factory=list)


@dataclass(frozen=True, slots=True, kw_only=True)
class OperatorVerb:
    """What an operator does about a parked compensation.

    `retry` runs it again; `skip` gives it up; `resolve` records that a person did it by hand.
    """

    step: str
    """The step's number or name."""
    verb: Verb
    subject: str
    reason: str | None = None
    """Required but for `retry`."""
    tenant_id: str = ""
    order_id: str = ""
    """Whose saga it is about: workflow ids of former versions can be those of two orders."""


def order_step_id(step: str, order_id: str) -> str:
    """The idempotency key of an order's step, and of its compensation."""
    return f"{step}:{order_id}"
