"""Names and messages of the activities: all that a workflow knows of them."""

from dataclasses import dataclass, field
from datetime import datetime

from flotilla.approvals.ballot import Ballot, Refusal
from flotilla.contracts.approvals import ActionState, ApprovalRequirement, DecisionRequest
from flotilla.contracts.json_types import JsonObject, JsonValue
from flotilla.contracts.orders import OperatorVerb, OrderState, SagaStepState
from flotilla.contracts.requests import ActionRequest, OrderRequest, RunStatus
from flotilla.contracts.session_events import ErrorRaised
from flotilla.contracts.tasks import ApprovalNeeded, ResultReference, Turn

DELEGATE = "delegate"
TELL_AGENT_CANCELLED = "tell_agent_cancelled"
BEGIN_RUN = "begin_run"
SAVE_TO_DATABASE = "save_to_database"
CLOSE_RUN = "close_run"
PAUSE_RUN = "pause_run"
SETTLE_CALLS = "settle_calls"

RUN_CLOSED = "RunClosed"
"""Type of the failure of an activity that meets a run which has already ended."""
CANCELLED_BY_AGENT = "Cancelled"
"""Type of the failure of a task whose agent reported a cancellation before Temporal knew of one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskOutcome:
    """What came of a delegated task: its result, or a reference to a large one."""

    task_id: str
    """The task whose row holds the result: the last hop's, in a routing slip."""
    result: JsonObject | None = None
    result_ref: ResultReference | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentFailure:
    """Details of the failure of a delegated task, beside the agent's error type and message."""

    task_id: str
    agent: str
    attempt: int
    retryable: bool
    approvals: list[ApprovalNeeded] = field(default_factory=list)
    """What the task waits for, when it paused."""
    retry_after_s: float | None = None
    """The soonest that another try makes sense."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CancelledTask:
    """A task that nobody needs any more."""

    task_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RunKey:
    """Which run."""

    tenant_id: str
    run_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class EndedTask:
    """A task whose try has ended, or every task of a run."""

    tenant_id: str
    task_id: str = ""
    """The first of its slip."""
    run_id: str = ""
    is_over: bool = True
    """False for a task that has paused again: what it has not called yet, it may call later."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PauseRun:
    """A run waits for people, or goes on."""

    run: RunKey
    paused: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class BegunRun:
    """What a run starts from."""

    history: list[Turn] = field(default_factory=list)
    """Earlier turns of the session, oldest first, bounded in size."""
    limits_s: dict[str, float] = field(default_factory=dict)
    """How long a task of each registered agent may take, as the agent says."""
    live: str | None = None
    """The Redis stream of the run's live tokens and steps."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SaveAnswer:
    """Makes the result of `task_id` the answer of the run."""

    run: RunKey
    task_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class CloseRun:
    """Ends a run without an answer."""

    run: RunKey
    status: RunStatus
    error: ErrorRaised | None = None


# Pipelines ------------------------------------------------------------------------------------------------------

BEGIN_PIPELINE = "begin_pipeline"
FINISH_PIPELINE = "finish_pipeline"


@dataclass(frozen=True, slots=True, kw_only=True)
class BegunPipeline:
    """What a pipeline starts from."""

    limits_s: dict[str, float] = field(default_factory=dict)
    """How long a task of each registered agent may take, as the agent says."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PipelineKey:
    """Which pipeline."""

    tenant_id: str
    task_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class FinishedPipeline:
    """How a pipeline ended."""

    key: PipelineKey
    status: RunStatus
    error: ErrorRaised | None = None
    """Why there is no result; None from a worker of before this was kept."""


# Governed actions -----------------------------------------------------------------------------------------------

ANALYZE_ACTION = "analyze_action"
ASSESS_EDIT = "assess_edit"
SEND_APPROVAL_REQUEST = "send_approval_request"
DELIVER_WEBHOOK = "deliver_webhook"
REMIND = "remind"
LOOK_UP_REVIEWER = "look_up_reviewer"
RECORD_DECISION = "record_decision"
RECORD_REFUSAL = "record_refusal"
RECORD_VERDICT = "record_verdict"
EXECUTE_ACTION = "execute_action"
FINISH_ACTION = "finish_action"
RISK_REVIEW_ATTEMPTS = 3
"""How often a model is asked to review a risk, before the action counts as high."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ActionKey:
    """Which action, and in whose session its events stand."""

    tenant_id: str
    action_id: str
    session_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ApprovalRequest:
    """Puts an action into the inbox."""

    action: ActionRequest
    workflow_id: str
    requirement: ApprovalRequirement
    deadline: datetime
    reminder: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ReviewerQuery:
    """Who somebody is that only gave a name."""

    tenant_id: str
    subject: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Reviewer:
    """A person's roles; no person, no roles."""

    is_person: bool
    roles: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True, kw_only=True)
class CountedDecision:
    """A decision that the workflow has counted, with the ballot after it."""

    key: ActionKey
    attempt: DecisionRequest
    update_id: str
    ballot: Ballot


@dataclass(frozen=True, slots=True, kw_only=True)
class RefusedDecision:
    """An attempt that the workflow refused where the gateway could not see it: a signal."""

    key: ActionKey
    attempt: DecisionRequest
    update_id: str
    refusal: Refusal
    policy_version: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """The end of a vote that no voter brought about: deadline or cancellation."""

    key: ActionKey
    ballot: Ballot


@dataclass(frozen=True, slots=True, kw_only=True)
class WebhookBatch:
    """Deliveries that wait for their receivers."""

    key: ActionKey
    delivery_ids: list[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class WebhookDelivery:
    """One delivery to one receiver."""

    key: ActionKey
    delivery_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Execution:
    """Exactly what was approved (or needs no approval)."""

    key: ActionKey
    action: str
    args: JsonObject
    content_hash: str
    approval_required: bool
    requested_by: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ExecutionResult:
    """What the action's handler gave back."""

    value: JsonValue = None


@dataclass(frozen=True, slots=True, kw_only=True)
class FinishedAction:
    """How an action ended."""

    key: ActionKey
    state: ActionState


# Orders ---------------------------------------------------------------------------------------------------------

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
class OrderKey:
    """Which order, and in whose session its events stand."""

    tenant_id: str
    order_id: str
    session_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class OrderStep:
    """One step of an order's saga, or its compensation. `step_id` is the idempotency key of both."""

    key: OrderKey
    step_id: str
    order: OrderRequest


@dataclass(frozen=True, slots=True, kw_only=True)
class Confirmation:
    """What an approved order's customer may quote."""

    number: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Rejection:
    """What the customer of a rejected order is told."""

    key: OrderKey
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class OrderRecord:
    """The order's row as it now is, and what changed. `version` grows with each change."""

    key: OrderKey
    version: int
    state: OrderState
    change: str
    """Past tense: `order_step_done`, `order_compensation_parked`, `order_step_retried`, `order_rejected`."""
    step: SagaStepState | None = None
    verb: OperatorVerb | None = None
    final: bool = False
