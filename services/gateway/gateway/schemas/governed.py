"""Governed actions, and the inbox of those who decide."""

from datetime import datetime
from typing import Annotated, Any

from pydantic import ConfigDict, Field, JsonValue, StringConstraints

from flotilla.contracts.approvals import ActionStatus, ApprovalStatus, Decision, SignatureRule, Vote
from flotilla.contracts.requests import RiskLevel
from gateway.schemas.common import WRITTEN, ActionArgs, Answer, Id, Name, Reason, RequestBody
from gateway.schemas.signers import VoteSignature

_ECHO: JsonValue = {"action": "echo", "description": "A trial", "risk_level": "high", "args": {"text": "hello"}}
_HASH = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"


class ActionBody(RequestBody):
    """What is to be done, and why."""

    model_config = ConfigDict(json_schema_extra={"examples": [_ECHO]})

    action: Name
    """`echo`, `http_request`, `publish_answer`, or one that the workflow worker registers."""
    description: Annotated[str, StringConstraints(min_length=1, max_length=4000), WRITTEN]
    """Why; the approver reads this."""
    risk_level: RiskLevel = "low"
    """At least this risk: policy can say more, a caller never less."""
    args: ActionArgs = Field(default_factory=dict)
    """At most 262,144 bytes as JSON."""
    session_id: Id | None = None
    """The session that records it; by default one of the action's own."""
    on_behalf_of: Name | None = None
    """The person at the root, where a service asks; they can't approve either."""


class ActionAccepted(Answer):
    """An action that was submitted."""

    action_id: str
    session_id: str
    workflow_id: str
    status: ActionStatus
    risk_level: RiskLevel


class ActionCancelAccepted(Answer):
    """The action is called off, unless its execution begins first."""

    action_id: str
    status: ActionStatus


class Action(ActionAccepted):
    """An action, and what came of it."""

    action: str
    description: str
    args: dict[str, Any]
    """What will be, or was, executed."""
    requested_by: str
    on_behalf_of: str | None
    """The person for whom a service asked."""
    current_step: str
    approval_status: ApprovalStatus
    result: Any
    error: dict[str, Any] | None
    content_hash: str | None
    votes: list[Vote]
    deadline_at: datetime | None
    created_at: datetime
    finished_at: datetime | None


class ActionList(Answer):
    """A page of actions, newest first."""

    actions: list[Action]
    next_cursor: str | None


class Outcome(Answer):
    """What came of an action that was decided."""

    status: ActionStatus
    result: Any
    """Once it is completed; null in a listing."""
    error: dict[str, Any] | None
    """Why it failed; null in a listing."""
    finished_at: datetime | None


class Approval(Answer):
    """What waits, or waited, for a decision."""

    approval_id: str
    session_id: str
    workflow_id: str
    run_id: str | None
    task_id: str | None
    action: str
    description: str
    args: dict[str, Any]
    """Exactly what will be executed."""
    args_schema: dict[str, Any] | None
    """JSON schema of the built-in action's arguments; null for an agent's tool."""
    content_hash: str
    """SHA-256 of `content`; a decision names it."""
    content: str
    """What will be executed as one text: the canonical JSON of action and args, the bytes that are hashed. Numbers are
    exact here, also for a client that reads those of `args` as doubles."""
    risk_level: RiskLevel
    reasons: list[str]
    """Why this risk."""
    requested_by: str
    on_behalf_of: str | None
    roles: list[str]
    """A voter needs one of these."""
    quorum: int
    editable_args: list[str]
    reason_required: list[Decision]
    exclude_requester: bool
    """Whether those who asked, or for whom was asked, can't vote."""
    policy_version: str
    signature: SignatureRule
    """`required`: an approval counts only with the voter's own signature."""
    signing_policy_version: str
    """The version of the policy in force now: what a signature names."""
    status: ApprovalStatus
    votes: list[Vote]
    created_at: datetime
    deadline_at: datetime
    reminder_at: datetime | None
    decided_at: datetime | None
    outcome: Outcome | None
    """For those who voted, and those who may read the session; null until it is decided."""


class ApprovalList(Answer):
    """A page of the inbox, newest first."""

    approvals: list[Approval]
    next_cursor: str | None


class ApprovalCount(Answer):
    """How many approvals wait for a decision; counted up to 10,001."""

    pending: int


class DecisionBody(RequestBody):
    """One vote. Who votes is the token's subject."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"decision": "approve", "reason": "checked", "content_hash": _HASH}]}
    )

    decision: Decision
    reason: Reason | None = None
    args: ActionArgs | None = None
    """The whole new arguments; with `edit` only."""
    content_hash: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
    """Of what the voter was shown."""
    signature: VoteSignature | None = None
    """The voter's own, where policy asks for it; with `approve` and `reject` only."""
