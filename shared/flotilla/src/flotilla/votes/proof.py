"""What a signed vote proves: who decided what, and who vouched for their key. Pure: no database, no clock."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from flotilla.contracts.approvals import Decision
from flotilla.contracts.votes import (
    Signed,
    SignedVote,
    SignerApproval,
    SignerStatement,
    VoteStatement,
)
from flotilla.votes.errors import Unproven
from flotilla.votes.keys import SignerPublicKey, parse_signer_key
from flotilla.votes.roots import VoteRoots
from flotilla.votes.signatures import verify_signature
from flotilla.votes.statements import parse_signed_statement, parse_statement_time, statement_digest

MAX_SIGNING_CLOCK_SKEW = timedelta(minutes=5)
"""How far the clock of a person's machine may be ahead."""
MAX_AGE_OF_NEW_VOTE = timedelta(minutes=10)
"""How old a vote may be when it is made."""
MAX_KEY_APPROVAL_PERIOD = timedelta(days=400)
"""How long the approval of a key may last: a revocation that a hostile database hides ends with it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ExpectedVote:
    """What a vote has to be about."""

    tenant: str
    approval_id: str
    content_hash: str
    policy_version: str
    requested_by: str
    on_behalf_of: str
    roles: Sequence[str]
    exclude_requester: bool = True


@dataclass(frozen=True, slots=True)
class VerifiedSigner:
    """A key, and that it is this person's."""

    statement: SignerStatement
    approval: SignerApproval
    key: SignerPublicKey


@dataclass(frozen=True, slots=True)
class VerifiedVote:
    """A vote whose signature holds, by a key that counts."""

    statement: VoteStatement
    signer: VerifiedSigner
    sign_count: int
    """The counter of the passkey; 0 where there is none."""

    @property
    def subject(self) -> str:
        """Who voted."""
        return self.statement.subject

    @property
    def fingerprint(self) -> str:
        """Of the key that signed."""
        return self.signer.key.fingerprint


def verify_key_possession(signer: Signed, roots: VoteRoots) -> tuple[SignerStatement, SignerPublicKey, int]:
    """Return what the holder of a key says about it, the key, and a passkey's counter.

    Raises:
        Unproven: the statement is not signed with that key.
    """
    statement = parse_signed_statement(signer.statement, SignerStatement)
    key = parse_signer_key(statement.kind, statement.public_key, statement.credential_id)
    return statement, key, verify_signature(signer, key, roots.passkeys)


def verify_approved_signer(signer: Signed, approval: Signed, roots: VoteRoots, now: datetime) -> VerifiedSigner:
    """Return whose key it is, once an administrator among the roots has approved it.

    Raises:
        Unproven: the chain from the key to a root does not hold, or is over.
    """
    statement, key, _ = verify_key_possession(signer, roots)
    approved = parse_signed_statement(approval.statement, SignerApproval)
    if (approved.tenant, approved.subject) != (statement.tenant, statement.subject):
        raise Unproven("the approval belongs to the key of somebody else")
    if approved.statement != statement_digest(signer.statement):
        raise Unproven("the approval is for another key")
    if approved.approved_by == statement.subject:
        raise Unproven(f"{statement.subject} approved a key of their own: another administrator has to")
    _check_root_signed(approval, approved, key, roots)
    if key.fingerprint in roots.revoked:
        raise Unproven(f"key {key.fingerprint} is revoked by the file of vote roots")
    _check_approval_period(approved, now)
    return VerifiedSigner(statement, approved, key)


def _check_root_signed(approval: Signed, approved: SignerApproval, key: SignerPublicKey, roots: VoteRoots) -> None:
    keys = [root for root in roots.approval_keys(approved.tenant, approved.approved_by) if root.blob != key.blob]
    if not keys:
        raise Unproven(f"{approved.approved_by} is not among the vote roots of tenant {approved.tenant}")
    reasons = []
    for root in keys:
        try:
            verify_signature(approval, root, roots.passkeys)
        except Unproven as error:
            reasons.append(str(error))
        else:
            return
    raise Unproven(f"the approval of the key is not signed by {approved.approved_by}: {'; '.join(reasons)}")


def _check_approval_period(approved: SignerApproval, now: datetime) -> None:
    begin, end = parse_statement_time(approved.time), parse_statement_time(approved.expires_at)
    if end - begin > MAX_KEY_APPROVAL_PERIOD:
        raise Unproven(f"the approval of a key lasts at most {MAX_KEY_APPROVAL_PERIOD.days} days")
    if begin > now + MAX_SIGNING_CLOCK_SKEW:
        raise Unproven("the approval of the key is dated in the future: check the clock of who approved it")
    if end <= now:
        raise Unproven(f"the approval of the key ended at {approved.expires_at}: enroll it again")


def verify_vote(vote: SignedVote, ballot: ExpectedVote, roots: VoteRoots, now: datetime) -> VerifiedVote:
    """Return who decided what, once everything about it holds.

    Raises:
        Unproven: it is about something else, of somebody who may not decide, or a signature does not hold.
    """
    signer = verify_approved_signer(vote.signer, vote.approval, roots, now)
    statement = parse_signed_statement(vote.vote.statement, VoteStatement)
    sign_count = verify_signature(vote.vote, signer.key, roots.passkeys)
    _check_statement_matches_ballot(statement, ballot)
    _check_voter_may_vote(statement, signer, ballot)
    time = parse_statement_time(statement.time)
    if not parse_statement_time(signer.approval.time) - MAX_SIGNING_CLOCK_SKEW <= time <= now + MAX_SIGNING_CLOCK_SKEW:
        raise Unproven(f"the vote is dated {statement.time}: before its key was approved, or in the future: sign again")
    return VerifiedVote(statement, signer, sign_count)


def _check_statement_matches_ballot(statement: VoteStatement, ballot: ExpectedVote) -> None:
    for name in ("tenant", "approval_id", "content_hash", "policy_version", "requested_by", "on_behalf_of"):
        signed, expected = getattr(statement, name), getattr(ballot, name)
        if signed != expected:
            raise Unproven(f"the vote was signed for {name} {signed!r}, not {expected!r}")


def _check_voter_may_vote(statement: VoteStatement, signer: VerifiedSigner, ballot: ExpectedVote) -> None:
    subject = statement.subject
    if (signer.statement.tenant, signer.statement.subject) != (statement.tenant, subject):
        raise Unproven(f"the key that signed is {signer.statement.subject}'s, not {subject}'s")
    if ballot.exclude_requester and subject in (ballot.requested_by, ballot.on_behalf_of):
        raise Unproven(f"{subject} asked for this action: somebody else must decide")
    if not set(signer.approval.roles) & set(ballot.roles):
        raise Unproven(f"the key of {subject} was not approved for any of the roles {', '.join(ballot.roles)}")


def check_vote_is_fresh(vote: VerifiedVote, decision: Decision, now: datetime) -> None:
    """Check that a vote that is made now was signed now, and for this decision.

    Raises:
        Unproven: it was not.
    """
    if vote.statement.decision != decision:
        raise Unproven(f"the vote was signed to {vote.statement.decision}, not to {decision}: sign what you send")
    if now - parse_statement_time(vote.statement.time) > MAX_AGE_OF_NEW_VOTE:
        raise Unproven(f"the vote was signed at {vote.statement.time}: sign it again")


def deduplicate_approvals(votes: Iterable[VerifiedVote]) -> list[VerifiedVote]:
    """Return the approvals that count: one a person, and one a key."""
    counted: list[VerifiedVote] = []
    for vote in votes:
        known = {name for one in counted for name in (one.subject, one.fingerprint)}
        if vote.statement.decision == "approve" and not known & {vote.subject, vote.fingerprint}:
            counted.append(vote)
    return counted
