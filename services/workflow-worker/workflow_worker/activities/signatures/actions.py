"""Names and messages of the activities that keep governed actions: all that a workflow knows of them."""

from dataclasses import dataclass, field
from datetime import datetime

from flotilla.approvals.ballot import Ballot, VoteRefusal
from flotilla.contracts.approvals import ActionState, ApprovalRequirement, DecisionRequest
from flotilla.contracts.json_types import JsonObject, JsonValue
from flotilla.contracts.requests import ActionRequest, RiskLevel
from flotilla.contracts.votes import VoteReceipt

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
CHECK_VOTE = "check_vote"
CHECK_VOTES = "check_votes"
RISK_REVIEW_ATTEMPTS = 3
"""How often a model is asked to review a risk, before the action counts as high."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ActionReference:
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
class ReviewerRoles:
    """A person's roles; no person, no roles."""

    is_person: bool
    roles: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True, kw_only=True)
class CountedDecision:
    """A decision that the workflow has counted, with the ballot after it."""

    key: ActionReference
    attempt: DecisionRequest
    update_id: str
    ballot: Ballot


@dataclass(frozen=True, slots=True, kw_only=True)
class RefusedDecision:
    """An attempt that the workflow refused where the gateway could not see it: a signal."""

    key: ActionReference
    attempt: DecisionRequest
    update_id: str
    refusal: VoteRefusal
    policy_version: str


@dataclass(frozen=True, slots=True, kw_only=True)
class VoteClosure:
    """The end of a vote that no voter brought about: deadline or cancellation."""

    key: ActionReference
    ballot: Ballot


@dataclass(frozen=True, slots=True, kw_only=True)
class WebhookBatch:
    """Deliveries that wait for their receivers."""

    key: ActionReference
    delivery_ids: list[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class WebhookDelivery:
    """One delivery to one receiver."""

    key: ActionReference
    delivery_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ActionExecution:
    """Exactly what was approved (or needs no approval)."""

    key: ActionReference
    action: str
    args: JsonObject
    content_hash: str
    approval_required: bool
    requested_by: str
    on_behalf_of: str = ""
    risk_level: RiskLevel = "low"
    """At least this risk: policy can say more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class VoteCheck:
    """An attempt to approve or reject, and what it is about."""

    execution: ActionExecution
    attempt: DecisionRequest


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckedVote:
    """Whether the attempt counts, as far as its signature goes."""

    refusal: VoteRefusal | None = None
    """Why it does not; None if it does."""
    receipt: VoteReceipt | None = None
    """Of a signed vote that counts."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ExecutionResult:
    """What the action's handler gave back."""

    value: JsonValue = None


@dataclass(frozen=True, slots=True, kw_only=True)
class FinishedAction:
    """How an action ended."""

    key: ActionReference
    state: ActionState
