"""One vote on one action: who may vote, what counts, when it is final. Pure, so that a workflow can hold it."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime

from flotilla.contracts.approvals import (
    ApprovalRequirement,
    ApprovalStatus,
    DecisionAnswer,
    DecisionRequest,
    RefusalType,
    Vote,
    content_hash,
)
from flotilla.contracts.errors import Invalid
from flotilla.contracts.json_types import JsonObject


@dataclass(frozen=True, slots=True)
class VoteRefusal:
    """Why an attempt does not count."""

    type: RefusalType
    message: str


@dataclass(frozen=True, slots=True)
class Ballot:
    """The state of a vote. Each change gives a new ballot."""

    approval_id: str
    action: str
    args: JsonObject
    requirement: ApprovalRequirement
    requested_by: str
    on_behalf_of: str
    deadline: datetime
    status: ApprovalStatus = "pending"
    votes: tuple[Vote, ...] = ()
    edited_by: str | None = None
    requested_through: tuple[str, ...] = ()
    """Who issued the requester's keys, and the keys of those."""
    requested_by_service: bool = False

    @property
    def content_hash(self) -> str:
        """Of what would be executed now."""
        return content_hash(self.action, self.args)

    @property
    def is_vote_final(self) -> bool:
        """Whether nothing can change any more."""
        return self.status != "pending"

    @property
    def counted_approvals(self) -> int:
        """Different people who approved exactly what would be executed now; not the person who edited it."""
        current = self.content_hash
        voters = {v.subject for v in self.votes if v.decision == "approve" and v.content_hash == current}
        return len(voters - {self.edited_by})

    def why_not_counted(
        self, attempt: DecisionRequest, now: datetime, check_args: Callable[[str, JsonObject], None]
    ) -> VoteRefusal | None:
        """Why `attempt` does not count at `now`; None if it does."""
        return (
            self._why_voter_not_allowed(attempt)
            or self._why_too_late(attempt, now)
            or self._why_vote_not_allowed(attempt, check_args)
        )

    def _why_voter_not_allowed(self, attempt: DecisionRequest) -> VoteRefusal | None:
        if not attempt.is_person:
            return VoteRefusal("NotAPerson", f"{attempt.subject} is not a person: only people decide")
        if self.requirement.exclude_requester and (shared := self._why_voter_may_be_requester(attempt)):
            return VoteRefusal("SelfApproval", f"{shared}: somebody else must decide")
        if not set(attempt.roles) & set(self.requirement.roles):
            return VoteRefusal(
                "WrongRole", f"{attempt.subject} has none of the roles {', '.join(self.requirement.roles)}"
            )
        return None

    def _why_voter_may_be_requester(self, attempt: DecisionRequest) -> str | None:
        """How the voter may be the requester in another name; None if they are two.

        Anyone who issued a key may hold a copy of it: that key does not make its subject a second person.
        """
        voter, requesters = attempt.subject, {self.requested_by, self.on_behalf_of} - {""}
        through = {*self.requested_through, *attempt.asked_through}
        if voter in requesters:
            return f"{voter} asked for this action"
        if voter in through:
            return f"{voter} issued a key by which this action was asked for"
        if self.requested_by_service:
            requesters |= through
        if issuers := sorted(requesters & set(attempt.issued_by)):
            return f"the key of {voter} was issued by {', '.join(issuers)}, on whose side this action was asked for"
        return None

    def _why_too_late(self, attempt: DecisionRequest, now: datetime) -> VoteRefusal | None:
        if self.status == "timeout" or (not self.is_vote_final and now >= self.deadline):
            return VoteRefusal("Late", f"the deadline was {self.deadline.isoformat()}")
        if self.is_vote_final:
            return VoteRefusal("AlreadyDecided", f"approval {self.approval_id} is {self.status}")
        if attempt.content_hash != self.content_hash:
            return VoteRefusal("StaleHash", "what would be executed is not what you were shown: read it again")
        return None

    def _why_vote_not_allowed(
        self, attempt: DecisionRequest, check_args: Callable[[str, JsonObject], None]
    ) -> VoteRefusal | None:
        if attempt.decision in self.requirement.reason_required and not (attempt.reason or "").strip():
            return VoteRefusal("ReasonRequired", f"policy asks for a reason to {attempt.decision}")
        if attempt.decision == "approve" and attempt.subject == self.edited_by:
            return VoteRefusal("OwnEdit", f"{attempt.subject} edited this: somebody else must approve it")
        return self._why_edit_not_allowed(attempt, check_args) if attempt.decision == "edit" else None

    def _why_edit_not_allowed(
        self, attempt: DecisionRequest, check_args: Callable[[str, JsonObject], None]
    ) -> VoteRefusal | None:
        if attempt.args is None or attempt.args == self.args:
            return VoteRefusal("InvalidArgs", "an edit needs all arguments, at least one of them changed")
        names = set(attempt.args) | set(self.args)
        changed = {name for name in names if attempt.args.get(name) != self.args.get(name)}
        if fixed := changed - set(self.requirement.editable_args):
            return VoteRefusal("NotEditable", f"policy does not allow editing {', '.join(sorted(fixed))}")
        try:
            check_args(self.action, attempt.args)
        except Invalid as error:
            return VoteRefusal("InvalidArgs", str(error))
        return None

    def with_counted_vote(self, attempt: DecisionRequest, requirement: ApprovalRequirement | None = None) -> "Ballot":
        """Return the ballot after `attempt`, which may count. One rejection is final; so is the quorum.

        `requirement` is what policy asks for the arguments of an edit.
        """
        vote = Vote(
            subject=attempt.subject,
            decision=attempt.decision,
            content_hash=attempt.content_hash,
            reason=attempt.reason,
            authenticated=attempt.authenticated,
            signed=attempt.proof is not None,
        )
        ballot = replace(self, votes=(*self.votes, vote))
        if attempt.decision == "reject":
            return replace(ballot, status="rejected")
        if attempt.decision == "edit" and attempt.args is not None:
            edited = replace(ballot, args=attempt.args, edited_by=attempt.subject)
            return edited if requirement is None else replace(edited, requirement=requirement)
        return replace(ballot, status="approved") if ballot.counted_approvals >= self.requirement.quorum else ballot

    def close_at_deadline(self) -> "Ballot":
        """The ballot at its deadline: policy's verdict, if nobody was quicker."""
        if self.is_vote_final:
            return self
        return replace(self, status="approved" if self.requirement.verdict_at_deadline == "approve" else "timeout")

    def close_by_cancellation(self) -> "Ballot":
        """The ballot of an action that was called off, if nobody was quicker."""
        return self if self.is_vote_final else replace(self, status="cancelled")

    def answer_to_voter(self, attempt: DecisionRequest) -> DecisionAnswer:
        """The answer to the voter, once `attempt` has counted."""
        return DecisionAnswer(
            approval_id=self.approval_id,
            decision=attempt.decision,
            subject=attempt.subject,
            approval_status=self.status,
            content_hash=self.content_hash,
            approvals=self.counted_approvals,
            quorum=self.requirement.quorum,
        )
