"""Names and messages of the activities that keep orders: all that a workflow knows of them."""

from dataclasses import dataclass

from flotilla.contracts.orders import OperatorVerb, OrderState, SagaStepState
from flotilla.contracts.requests import OrderRequest

BEGIN_ORDER = "begin_order"
RESERVE_FUNDS = "reserve_funds"
RELEASE_FUNDS = "release_funds"
VERIFY_IDENTITY = "verify_identity"
REVOKE_VERIFICATION = "revoke_verification"
APPROVE_ORDER = "approve_order"
CANCEL_ORDER = "cancel_order"
SEND_REJECTION_NOTIFICATION = "send_rejection_notification"
RECORD_ORDER = "record_order"


@dataclass(frozen=True, slots=True, kw_only=True)
class OrderReference:
    """Which order, and in whose session its events stand."""

    tenant_id: str
    order_id: str
    session_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class OrderStep:
    """One step of an order's saga, or its compensation. `step_id` is the idempotency key of both."""

    key: OrderReference
    step_id: str
    order: OrderRequest


@dataclass(frozen=True, slots=True, kw_only=True)
class Confirmation:
    """What an approved order's customer may quote."""

    number: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Rejection:
    """The message to the customer of a rejected order."""

    key: OrderReference
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class OrderRecord:
    """The order's row as it now is, and what changed. `version` grows with each change."""

    key: OrderReference
    version: int
    state: OrderState
    change: str
    """Past tense: `order_step_done`, `order_compensation_parked`, `order_step_retried`, `order_rejected`."""
    step: SagaStepState | None = None
    verb: OperatorVerb | None = None
    final: bool = False
