"""The session events of a governed action: every attempt to decide, refused ones too, with who, what was shown and
under which policy."""

from collections.abc import Mapping

from flotilla.approvals.ballot import Ballot, VoteRefusal
from flotilla.contracts.approvals import ApprovalStatus, DecisionRequest, content_hash
from flotilla.contracts.envelope import to_builtins
from flotilla.contracts.event_builders import state_change
from flotilla.contracts.requests import ActionRequest
from flotilla.contracts.session_events import AgentStateEvent

WORKFLOW_SOURCE = "/workflows/HumanInTheLoopWorkflow"
GATEWAY_SOURCE = "/gateway"


def make_action_event(
    change: str, action_id: str, details: Mapping[str, object] | None = None, source: str = WORKFLOW_SOURCE
) -> AgentStateEvent:
    """`state_change` of an action; its details always name it."""
    return state_change(change, {"action_id": action_id, **to_builtins(details or {})}, source)


def action_submitted_event(request: ActionRequest, risk_level: str, source: str = WORKFLOW_SOURCE) -> AgentStateEvent:
    """Return the event for a new action, as it was asked for."""
    details = {
        "action": request.action,
        "description": request.description,
        "args": request.args,
        "risk_level": risk_level,
        "requested_by": request.requested_by,
        "on_behalf_of": request.on_behalf_of or None,
        "content_hash": content_hash(request.action, request.args),
    }
    return make_action_event("action_submitted", request.action_id, details, source)


def vote_attempted_event(
    attempt: DecisionRequest, policy_version: str, source: str = GATEWAY_SOURCE
) -> AgentStateEvent:
    """Somebody tried to decide; written before the workflow is asked."""
    return make_action_event("approval_attempted", attempt.approval_id, _vote_details(attempt, policy_version), source)


def vote_refused_event(
    attempt: DecisionRequest, refusal: VoteRefusal, policy_version: str, source: str = GATEWAY_SOURCE
) -> AgentStateEvent:
    """The attempt did not count."""
    details = {
        **_vote_details(attempt, policy_version),
        "refusal": refusal.type,
        "message": refusal.message,
    }
    return make_action_event("approval_refused", attempt.approval_id, details, source)


def vote_counted_events(attempt: DecisionRequest, after: Ballot) -> list[AgentStateEvent]:
    """The attempt counted; and what the vote came to, if it is final."""
    details = {
        **_vote_details(attempt, after.requirement.policy_version),
        "approvals": after.counted_approvals,
        "quorum": after.requirement.quorum,
        "next_content_hash": after.content_hash,
        "risk_level": after.requirement.risk_level,
        "signature": after.requirement.signature,
        "exclude_requester": after.requirement.exclude_requester,
        "proof": attempt.proof,
        "receipt": attempt.receipt,
    }
    counted = make_action_event("approval_counted", attempt.approval_id, details)
    return [counted, vote_ended_event(after)] if after.is_vote_final else [counted]


_CHANGE_BY_VERDICT: Mapping[ApprovalStatus, str] = {
    "approved": "action_approved",
    "rejected": "action_rejected",
    "timeout": "approval_timed_out",
    "cancelled": "approval_cancelled",
}


def vote_ended_event(ballot: Ballot) -> AgentStateEvent:
    """How the vote ended."""
    details = {
        "content_hash": ballot.content_hash,
        "policy_version": ballot.requirement.policy_version,
        "voters": [vote.subject for vote in ballot.votes],
    }
    return make_action_event(_CHANGE_BY_VERDICT[ballot.status], ballot.approval_id, details)


def _vote_details(attempt: DecisionRequest, policy_version: str) -> dict[str, object]:
    return {
        "attempt_id": attempt.attempt_id,
        "subject": attempt.subject,
        "roles": attempt.roles,
        "decision": attempt.decision,
        "content_hash": attempt.content_hash,
        "reason": attempt.reason,
        "args": attempt.args,
        "authenticated": attempt.authenticated,
        "issued_by": attempt.issued_by,
        "policy_version": policy_version,
    }
