"""Governed actions: the names, states and messages of `HumanInTheLoopWorkflow`.

How a decision travels (two steps, so that no attempt is lost and no answer is given twice):

1. The gateway, in one transaction: finds the `approvals` row (none: 404); if `approval_decisions` has a `counted`
   row with this `update_id`, its `answer` is the answer (200). Else it inserts the attempt (`outcome = 'attempted'`)
   and appends `flotilla.approvals.vote_attempted_event` to the approval's session.
2. It sends the Update `decide` with id `decision_update_id(...)` to the approval's `workflow_id`. The validator refuses
   with an ApplicationError whose type is a key of `REFUSAL_STATUS` (the HTTP status is its value); the gateway then
   marks the attempt `refused` and appends `flotilla.approvals.vote_refused_event`. A closed workflow is
   `AlreadyDecided`.
   The handler changes the workflow's state first, then the worker stores decision, answer, approval row and session
   event in one transaction, and only then the Update answers with a `DecisionAnswer`.

Who inserts what at submission: the gateway inserts session, `actions` row (status `pending`) and
`state_change{action_submitted}`, then starts `HumanInTheLoopWorkflow(ActionRequest)` with id `action-<action_id>`. The
worker starts the workflow of an action that was left pending. `approval_id` is the `action_id`.
"""

import hashlib
import json
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from flotilla.contracts.json_types import JsonObject, JsonValue
from flotilla.contracts.requests import RiskLevel
from flotilla.contracts.votes import SignedVote, VoteReceipt

GET_STATUS_QUERY = "get_status"
"""Answers with an `ActionState`."""
DECIDE_UPDATE = "decide"
"""Takes a `DecisionRequest`, answers with a `DecisionAnswer`."""
APPROVE_SIGNAL = "approve"
"""Takes `approved: bool, reviewer: str`; counts only where policy says `allow_signal` and the quorum is 1."""

MAX_ARGS_BYTES = 256 * 1024
"""Of the arguments that people decide about, as JSON: they read them, and the vote's history holds them many times."""

RISK_ORDER: tuple[RiskLevel, ...] = ("low", "medium", "high")

ActionStatus: TypeAlias = Literal[
    "pending", "running", "awaiting_approval", "approved", "completed", "rejected", "timeout", "failed", "cancelled"
]
"""`approved` is a call of an agent's tool that may be made, and has not returned yet."""
ApprovalStatus: TypeAlias = Literal["not_required", "pending", "approved", "rejected", "timeout", "cancelled"]
ActionStep: TypeAlias = Literal[
    "analyze_action", "send_approval_request", "wait_for_approval", "execute_action", "finished"
]
Decision: TypeAlias = Literal["approve", "reject", "edit"]
SignatureRule: TypeAlias = Literal["none", "required"]
RefusalType: TypeAlias = Literal[
    "SelfApproval",
    "NotAPerson",
    "WrongRole",
    "OwnEdit",
    "AlreadyDecided",
    "Late",
    "StaleHash",
    "ReasonRequired",
    "NotEditable",
    "InvalidArgs",
    "SignalNotAllowed",
    "SignatureRequired",
    "SignatureInvalid",
]
REFUSAL_STATUS: dict[RefusalType, int] = {
    "SelfApproval": 403,
    "NotAPerson": 403,
    "WrongRole": 403,
    "OwnEdit": 403,
    "SignalNotAllowed": 403,
    "SignatureRequired": 403,
    "SignatureInvalid": 403,
    "AlreadyDecided": 409,
    "Late": 409,
    "StaleHash": 409,
    "ReasonRequired": 422,
    "NotEditable": 422,
    "InvalidArgs": 422,
}
"""What the validator of `decide` can answer, as HTTP status."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DecisionRequest:
    """One attempt to decide. `subject`, `roles` and `is_person` come from the token, never from the request's body."""

    approval_id: str
    attempt_id: str
    """Key of the attempt's row; a UUID."""
    subject: str
    roles: list[str]
    is_person: bool
    decision: Decision
    content_hash: str
    """Of what the person was shown."""
    reason: str | None = None
    args: JsonObject | None = None
    """The whole new arguments, for `edit` only."""
    issued_by: list[str] = field(default_factory=list)
    """Who issued the voter's keys, and the keys of those: the voter can't decide for them."""
    asked_through: list[str] = field(default_factory=list)
    """Through whose hands the keys went by which the action was asked for, as it shows at the vote: the voter can't be
    one of them. Where an agent asks, nothing else says it."""
    authenticated: bool = True
    """False for a signal, whose sender nobody proved."""
    proof: SignedVote | None = None
    """The voter's own signature, with the approval of their key; who executes checks it."""
    receipt: VoteReceipt | None = None
    """When the worker checked it; nobody else can issue one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DecisionAnswer:
    """What a counted decision came to."""

    approval_id: str
    decision: Decision
    subject: str
    approval_status: ApprovalStatus
    """`pending` while the quorum is not reached."""
    content_hash: str
    """Of what will be executed after this decision; an edit gives a new one."""
    approvals: int
    """Votes for `content_hash` so far."""
    quorum: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ApprovalRequirement:
    """What policy asks for one action; fixed when the action is analyzed."""

    required: bool
    risk_level: RiskLevel
    reasons: list[str]
    """Why this risk: rules of the policy, the caller, the model."""
    policy_version: str
    roles: list[str] = field(default_factory=list)
    """A voter needs one of these."""
    quorum: int = 1
    deadline_s: float = 86_400.0
    reminder_s: float | None = None
    """After the request; None sends none."""
    verdict_at_deadline: Literal["reject", "approve"] = "reject"
    exclude_requester: bool = True
    editable_args: list[str] = field(default_factory=list)
    reason_required: list[Decision] = field(default_factory=list)
    allow_signal: bool = False
    signature: SignatureRule = "none"
    """`required`: an approval counts only with the voter's own signature."""
    args: JsonObject | None = None
    """The arguments in the form in which they were assessed, defaults filled in; None: as they were given."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Vote:
    """A counted decision."""

    subject: str
    decision: Decision
    content_hash: str
    reason: str | None = None
    authenticated: bool = True
    signed: bool = False
    """Whether it carries the voter's own signature."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ActionState:
    """Answer of the query `get_status`, and what `HumanInTheLoopWorkflow` returns."""

    action_id: str
    status: ActionStatus
    current_step: ActionStep
    approval_status: ApprovalStatus
    result: JsonValue = None
    error: str | None = None
    risk_level: RiskLevel | None = None
    content_hash: str | None = None
    args: JsonObject = field(default_factory=dict)
    """What will be (or was) executed; edits included."""
    votes: list[Vote] = field(default_factory=list)
    deadline: str | None = None
    """RFC 3339."""


def canonical_content(action: str, args: JsonObject) -> str:
    """Return what will be executed as one text: the action's name and arguments as JSON, keys sorted, no spaces."""
    document = {"action": action, "args": args}
    return json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def content_hash(action: str, args: JsonObject) -> str:
    """Return the SHA-256 (hex) of `canonical_content` in UTF-8, so that anyone who reads that text can recompute it."""
    return hashlib.sha256(canonical_content(action, args).encode()).hexdigest()


def decision_update_id(approval_id: str, subject: str, decision: Decision, hash_seen: str, args_hash: str = "") -> str:
    """The id of the Update: the same vote again meets the first one's answer.

    `args_hash` is `content_hash(action, args)` of an edit, so that two different edits of one text are two votes.
    """
    parts = json.dumps([approval_id, subject, decision, hash_seen, args_hash], separators=(",", ":"))
    return hashlib.sha256(parts.encode()).hexdigest()
