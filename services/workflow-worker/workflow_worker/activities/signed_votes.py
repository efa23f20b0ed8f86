"""Verifies signed votes where actions are executed: from the log, by this worker's own policy and its file of roots."""

import structlog

from flotilla.approvals.ballot import VoteRefusal
from flotilla.approvals.policy import PolicySource
from flotilla.config.signing import Signer
from flotilla.contracts.approvals import ApprovalRequirement, DecisionRequest, RefusalType, content_hash
from flotilla.contracts.errors import NotFound, Undecodable
from flotilla.contracts.ids import Clock, utc_now
from flotilla.contracts.votes import SignedVote, VoteReceipt
from flotilla.eventstore.signers import SigningKeyLog
from flotilla.eventstore.votes import load_counted_votes
from flotilla.postgres import Connection, Pool, tenant_transaction
from flotilla.telemetry import metrics
from flotilla.votes.errors import Unproven
from flotilla.votes.proof import ExpectedVote, VerifiedVote, check_vote_is_fresh, verify_vote
from flotilla.votes.quorum import VoteTrustAnchors, verify_quorum
from flotilla.votes.receipts import issue_receipt
from flotilla.votes.roots import VoteRoots
from workflow_worker.activities.signatures.actions import ActionExecution, CheckedVote, VoteCheck

# A counter that does not grow is that of a copied passkey. A repetition of the same attempt meets itself.
_STORE_SIGN_COUNT = """
UPDATE flotilla.signers SET sign_count = $3, last_attempt_id = $4
WHERE tenant_id = $1 AND fingerprint = $2
  AND (sign_count < $3 OR (sign_count = 0 AND $3 = 0) OR last_attempt_id = $4)
RETURNING fingerprint
"""
log = structlog.get_logger(__name__)


class SignedVoteChecker:
    """The votes that count here. Trusts neither rows nor workflows: only signatures by keys that a root approved."""

    def __init__(
        self, pool: Pool, policy: PolicySource, roots: VoteRoots, signer: Signer, *, clock: Clock = utc_now
    ) -> None:
        self._pool = pool
        self._policy = policy
        self._roots = roots
        self._signer = signer
        self._signers = SigningKeyLog(pool)
        self._clock = clock
        for where in ("vote", "execution"):
            metrics.SIGNATURES_REFUSED.labels(where)  # at 0 from the start, so that the first refusal shows

    def current_requirement(self, execution: ActionExecution) -> ApprovalRequirement:
        """Return what the policy in force asks for exactly what would be executed."""
        policy = self._policy.current_policy
        assessment = policy.assess_risk(execution.action, execution.args, execution.risk_level)
        return policy.approval_requirement(execution.action, assessment)

    async def check_attempt(self, check: VoteCheck) -> CheckedVote:
        """Return why an attempt does not count, as far as its signature goes, or the receipt of a signed one.

        Idempotency key: (tenant, approval id, attempt id).
        """
        attempt, requirement = check.attempt, self.current_requirement(check.execution)
        if attempt.proof is None:
            if attempt.decision != "approve" or requirement.signature != "required":
                return CheckedVote()
            return self._log_refused_vote(
                check, "SignatureRequired", "policy asks for your own signature: see docs/signed-votes.md"
            )
        try:
            return CheckedVote(receipt=await self._verify_and_issue_receipt(check, attempt.proof, requirement))
        except Unproven as error:
            return self._log_refused_vote(check, "SignatureInvalid", str(error))

    async def _verify_and_issue_receipt(
        self, check: VoteCheck, proof: SignedVote, requirement: ApprovalRequirement
    ) -> VoteReceipt:
        attempt, key = check.attempt, check.execution.key
        vote = verify_vote(proof, self._expected_vote(check.execution, requirement), self._roots, self._clock())
        _check_signed_by_voter(vote, attempt)
        check_vote_is_fresh(vote, attempt.decision, self._clock())
        signers = await self._signers.load_signer_history(key.tenant_id)
        signers.check_key_counted(vote.fingerprint)
        receipt = issue_receipt(self._signer, key.tenant_id, key.action_id, proof.vote, signers.head_seq)
        async with tenant_transaction(self._pool, key.tenant_id) as connection:
            await _advance_sign_count(connection, key.tenant_id, vote, attempt)
        return receipt

    async def check_quorum(self, execution: ActionExecution) -> None:
        """Check that as many different people as policy asks for have signed exactly this.

        Raises:
            Unproven: they have not.
            RetryLater: the log has not arrived yet.
        """
        requirement = self.current_requirement(execution)
        if requirement.required and requirement.signature == "required":
            await self._verify_quorum_from_log(execution, requirement)

    async def _verify_quorum_from_log(self, execution: ActionExecution, requirement: ApprovalRequirement) -> None:
        key = execution.key
        try:
            counted = await load_counted_votes(self._pool, key.tenant_id, key.session_id, key.action_id)
        except (NotFound, Undecodable) as error:
            raise Unproven(f"the votes can't be read: {error}") from error
        try:
            trust = VoteTrustAnchors(
                self._roots, await self._signers.load_signer_history(key.tenant_id), self._signer.public_keys()
            )
            verify_quorum(
                counted, self._expected_vote(execution, requirement), requirement.quorum, trust, self._clock()
            )
        except Unproven as error:
            metrics.SIGNATURES_REFUSED.labels("execution").inc()
            log.warning("execution_refused", action_id=key.action_id, reason=str(error))
            raise

    def _expected_vote(self, execution: ActionExecution, requirement: ApprovalRequirement) -> ExpectedVote:
        return ExpectedVote(
            tenant=execution.key.tenant_id,
            approval_id=execution.key.action_id,
            content_hash=content_hash(execution.action, execution.args),
            policy_version=requirement.policy_version,
            requested_by=execution.requested_by,
            on_behalf_of=execution.on_behalf_of,
            roles=requirement.roles,
            exclude_requester=requirement.exclude_requester,
        )

    def _log_refused_vote(self, check: VoteCheck, kind: RefusalType, message: str) -> CheckedVote:
        metrics.SIGNATURES_REFUSED.labels("vote").inc()
        log.warning(
            "vote_refused", approval_id=check.attempt.approval_id, subject=check.attempt.subject, reason=message
        )
        return CheckedVote(refusal=VoteRefusal(kind, message))


def _check_signed_by_voter(vote: VerifiedVote, attempt: DecisionRequest) -> None:
    if vote.subject != attempt.subject:
        raise Unproven(f"the vote of {attempt.subject} is signed by {vote.subject}: sign with a key of your own")


async def _advance_sign_count(
    connection: Connection, tenant_id: str, vote: VerifiedVote, attempt: DecisionRequest
) -> None:
    counted = await connection.fetchval(
        _STORE_SIGN_COUNT, tenant_id, vote.fingerprint, vote.sign_count, attempt.attempt_id
    )
    if counted is None:
        raise Unproven(
            f"the passkey's counter went back to {vote.sign_count}: there is a copy of it. Revoke it and enroll another"
        )
