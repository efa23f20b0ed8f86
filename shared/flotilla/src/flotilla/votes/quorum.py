"""Whether as many different people as policy asks for have signed exactly what would be executed. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from flotilla.contracts.approvals import Decision
from flotilla.contracts.votes import SignedVote, VoteReceipt
from flotilla.votes.errors import Unproven
from flotilla.votes.proof import ExpectedVote, VerifiedVote, deduplicate_approvals, verify_vote
from flotilla.votes.receipts import ReceiptKeys, signers_seq_when_checked
from flotilla.votes.roots import VoteRoots
from flotilla.votes.signer_history import SignerHistory


@dataclass(frozen=True, slots=True, kw_only=True)
class CountedVote:
    """What `approval_counted` says; nothing of it is proven but what `proof` and `receipt` prove."""

    subject: str
    decision: Decision
    content_hash: str
    next_content_hash: str = ""
    proof: SignedVote | None = None
    receipt: VoteReceipt | None = None


@dataclass(frozen=True, slots=True)
class VoteTrustAnchors:
    """By what an executor judges votes: its file of roots, the tenant's log of signing keys, and who signs receipts."""

    roots: VoteRoots
    signers: SignerHistory
    receipt_keys: ReceiptKeys


def verify_quorum(
    counted: Sequence[CountedVote], ballot: ExpectedVote, quorum: int, trust: VoteTrustAnchors, now: datetime
) -> None:
    """Check that `quorum` different people, not those who edited it last, approved what `ballot` is about.

    Raises:
        Unproven: they have not; it names how many did and why the other votes do not hold.
    """
    reasons: list[str] = []
    proven: list[VerifiedVote] = []
    for vote in counted:
        try:
            proven += _verified_approvals_of(vote, ballot, trust, now)
        except Unproven as error:
            reasons.append(str(error))
    editors = {vote.subject for vote in counted if _is_edit_to(vote, ballot.content_hash)}
    voters = deduplicate_approvals(vote for vote in proven if vote.subject not in editors)
    if len(voters) < quorum:
        why = "; ".join(reasons) or "there is no signed vote in the log"
        raise Unproven(f"policy asks for {quorum} signed approvals, {len(voters)} hold: {why}")


def _verified_approvals_of(
    counted: CountedVote, ballot: ExpectedVote, trust: VoteTrustAnchors, now: datetime
) -> list[VerifiedVote]:
    if counted.proof is None:
        return []
    vote = verify_vote(counted.proof, ballot, trust.roots, now)
    at = signers_seq_when_checked(
        counted.receipt, ballot.tenant, ballot.approval_id, counted.proof.vote, trust.receipt_keys
    )
    trust.signers.check_key_counted(vote.fingerprint, at)
    return [vote]


def _is_edit_to(vote: CountedVote, content_hash: str) -> bool:
    return vote.decision == "edit" and vote.next_content_hash == content_hash
