"""Checks the signed votes of an exported history, with nothing but the history and a file of roots."""

from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import msgspec

from flotilla.contracts.session_events import session_event_type
from flotilla.contracts.votes import SignedVote, SignerApproval, VoteReceipt, VoteStatement
from flotilla.votes.errors import Unproven
from flotilla.votes.proof import ExpectedVote, VerifiedVote, deduplicate_approvals, verify_vote
from flotilla.votes.receipts import signers_seq_when_checked
from flotilla.votes.roots import VoteRoots
from flotilla.votes.signer_history import SignerHistory
from flotilla.votes.statements import parse_signed_statement

MAX_OPEN_ACTIONS = 10_000
"""Actions whose votes are held until their verdict; a history with more at a time is not one of ours."""
_STATE_CHANGE = session_event_type("state_change")
_COUNTED, _APPROVED = "approval_counted", "action_approved"


class _StateChangeData(msgspec.Struct, frozen=True):
    change: Any = None
    details: Any = None


class _StateChangeEvent(msgspec.Struct, frozen=True):
    type: str
    time: datetime
    data: msgspec.Raw = msgspec.Raw(b"{}")


class _CountedVoteDetails(msgspec.Struct, frozen=True):
    action_id: str
    subject: str
    decision: str
    content_hash: str
    next_content_hash: str = ""
    quorum: int = 1
    signature: str = "none"
    exclude_requester: bool = True
    proof: SignedVote | None = None
    receipt: VoteReceipt | None = None


class _VerdictDetails(msgspec.Struct, frozen=True):
    action_id: str
    content_hash: str = ""


@dataclass(slots=True)
class _OpenActionVotes:
    """The votes about one action so far."""

    signature: str = "none"
    quorum: int = 1
    proven: list[VerifiedVote] = field(default_factory=list)
    unchecked: set[tuple[str, str]] = field(default_factory=set)
    """Who approved what, by votes that carry a signature, where there are no roots to check it by."""
    editors: dict[str, str] = field(default_factory=dict)
    """Who edited last, by the content that came of it."""


class ExportedVoteChecker:
    """Takes a history's events in their order. Without `signers`, revocations are not looked at."""

    def __init__(self, tenant_id: str, roots: VoteRoots | None, signers: SignerHistory | None = None) -> None:
        self._tenant_id = tenant_id
        self._roots = roots
        self._signers = signers
        self._open: dict[str, _OpenActionVotes] = {}
        self.proven = 0
        """Votes whose signatures hold up to a root."""
        self.unchecked = 0
        """Signed votes that nobody could check, since no roots were given."""

    def problem(self, _seq: int, body: bytes) -> str | None:
        """Return what is wrong with the votes once this event is there; None when nothing is."""
        event = msgspec.json.decode(body, type=_StateChangeEvent)
        if event.type != _STATE_CHANGE:
            return None
        data = msgspec.json.decode(event.data, type=_StateChangeData)
        try:
            if data.change == _COUNTED:
                self._add_counted_vote(msgspec.convert(data.details, _CountedVoteDetails), event.time)
            elif data.change == _APPROVED:
                self._check_quorum_at_verdict(msgspec.convert(data.details, _VerdictDetails))
        except msgspec.ValidationError as error:
            return f"not a vote as it is recorded: {error}"
        except Unproven as error:
            return str(error)
        return None

    def _add_counted_vote(self, counted: _CountedVoteDetails, time: datetime) -> None:
        votes = self._open.setdefault(counted.action_id, _OpenActionVotes())
        if len(self._open) > MAX_OPEN_ACTIONS:
            raise Unproven(f"votes about more than {MAX_OPEN_ACTIONS} actions at a time are open")
        votes.signature, votes.quorum = counted.signature, counted.quorum
        if counted.decision == "edit":
            votes.editors[counted.next_content_hash] = counted.subject
        if counted.proof is None:
            return
        if self._roots is None:
            self.unchecked += 1
            if counted.decision == "approve":
                votes.unchecked.add((counted.subject, counted.content_hash))
            return
        votes.proven.append(self._verify_counted_vote(counted, counted.proof, self._roots, time))
        self.proven += 1

    def _verify_counted_vote(
        self, counted: _CountedVoteDetails, proof: SignedVote, roots: VoteRoots, time: datetime
    ) -> VerifiedVote:
        """The vote, as it was proven when it was counted."""
        statement = parse_signed_statement(proof.vote.statement, VoteStatement)
        named = (statement.subject, statement.decision)
        if named != (counted.subject, counted.decision):
            raise Unproven(f"{counted.subject}'s vote to {counted.decision} carries {named[0]}'s to {named[1]}")
        ballot = ExpectedVote(
            tenant=self._tenant_id,
            approval_id=counted.action_id,
            content_hash=counted.content_hash,
            policy_version=statement.policy_version,
            requested_by=statement.requested_by,
            on_behalf_of=statement.on_behalf_of,
            roles=parse_signed_statement(proof.approval.statement, SignerApproval).roles,
            exclude_requester=counted.exclude_requester,
        )
        vote = verify_vote(proof, ballot, roots, time)
        if self._signers is not None:
            # The receipt is as the log has it, and the export proves the log.
            at = signers_seq_when_checked(counted.receipt, self._tenant_id, counted.action_id, proof.vote, keys=None)
            self._signers.check_key_counted(vote.fingerprint, at)
        return vote

    def _check_quorum_at_verdict(self, verdict: _VerdictDetails) -> None:
        votes = self._open.pop(verdict.action_id, _OpenActionVotes())
        if votes.signature != "required":
            return
        editor = votes.editors.get(verdict.content_hash)
        about_it = [vote for vote in votes.proven if vote.statement.content_hash == verdict.content_hash]
        voters = {vote.subject for vote in deduplicate_approvals(about_it)}
        voters |= {subject for subject, content_hash in votes.unchecked if content_hash == verdict.content_hash}
        if (count := len(voters - {editor})) < votes.quorum:
            asked = f"policy asked for {votes.quorum}"
            raise Unproven(f"action {verdict.action_id} was approved with {count} signed votes, {asked}")
