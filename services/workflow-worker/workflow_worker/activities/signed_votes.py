"""Verifies signed votes where actions are executed: from the log, by this worker's own policy and its file of roots."""

from collections.abc import Sequence

import structlog

from flotilla.approvals.ballot import Refusal
from flotilla.approvals.policy import ApprovalPolicy
from flotilla.contracts.approvals import ApprovalRequirement, DecisionRequest, RefusalType, content_hash
from flotilla.contracts.errors import NotFound, Undecodable
from flotilla.contracts.ids import Clock, utc_now
from flotilla.contracts.votes import SignedVote
from flotilla.eventstore.votes import CountedVote, counted_votes
from flotilla.postgres import Connection, Pool, tenant_transaction
from flotilla.telemetry import metrics
from flotilla.votes.errors import Unproven
from flotilla.votes.proof import Ballot, ProvenVote, check_is_fresh, distinct_approvals, prove_vote
from flotilla.votes.roots import VoteRoots
from workflow_worker.activities.signatures.actions import Execution, VoteCheck

_STANDS = """
SELECT fingerprint FROM flotilla.signers
WHERE tenant_id = $1 AND fingerprint = ANY($2) AND approved_at IS NOT NULL AND revoked_at IS NULL
"""
# A counter that does not grow is that of a copied passkey. A repetition of the same attempt meets itself.
_COUNT_ON = """
UPDATE flotilla.signers SET sign_count = $3, last_attempt_id = $4
WHERE tenant_id = $1 AND fingerprint = $2
  AND (sign_count < $3 OR (sign_count = 0 AND $3 = 0) OR last_attempt_id = $4)
RETURNING fingerprint
"""
log = structlog.get_logger(__name__)


class SignedVotes:
    """The votes that count here. Trusts neither rows nor workflows: only signatures by keys that a root approved."""

    def __init__(self, pool: Pool, policy: ApprovalPolicy, roots: VoteRoots, *, clock: Clock = utc_now) -> None:
        self._pool = pool
        self._policy = policy
        self._roots = roots
        self._clock = clock

    def requirement(self, execution: Execution) -> ApprovalRequirement:
        """Return what the policy in force asks for exactly what would be executed."""
        assessment = self._policy.assess(execution.action, execution.args, execution.risk_level)
        return self._policy.requirement(execution.action, assessment)

    async def refusal(self, check: VoteCheck) -> Refusal | None:
        """Return why an attempt does not count, as far as its signature goes; None if it does.

        Idempotency key: (tenant, approval id, attempt id).
        """
        attempt, requirement = check.attempt, self.requirement(check.execution)
        if attempt.proof is None:
            if attempt.decision != "approve" or requirement.signature != "required":
                return None
            return self._refused(
                check, "SignatureRequired", "policy asks for your own signature: see docs/signed-votes.md"
            )
        try:
            vote = prove_vote(attempt.proof, self._ballot(check.execution, requirement), self._roots, self._clock())
            _check_is_the_voters(vote, attempt)
            check_is_fresh(vote, attempt.decision, self._clock())
            async with tenant_transaction(self._pool, check.execution.key.tenant_id) as connection:
                await _check_stands(connection, check.execution.key.tenant_id, [vote])
                await _count_on(connection, check.execution.key.tenant_id, vote, attempt)
        except Unproven as error:
            return self._refused(check, "SignatureInvalid", str(error))
        return None

    async def check(self, execution: Execution) -> None:
        """Check that as many different people as policy asks for have signed exactly this.

        Raises:
            Unproven: they have not.
            RetryLater: the log has not arrived yet.
        """
        requirement = self.requirement(execution)
        if requirement.required and requirement.signature == "required":
            await self._check_quorum(execution, requirement)

    async def _check_quorum(self, execution: Execution, requirement: ApprovalRequirement) -> None:
        key, hashed = execution.key, content_hash(execution.action, execution.args)
        try:
            counted = await counted_votes(self._pool, key.tenant_id, key.session_id, key.action_id)
        except (NotFound, Undecodable) as error:
            raise Unproven(f"the votes can't be read: {error}") from error
        editors = {vote.subject for vote in counted if vote.decision == "edit" and vote.next_content_hash == hashed}
        now, ballot, reasons, proven = self._clock(), self._ballot(execution, requirement), [], []
        for proof in _proofs(counted):
            try:
                proven.append(prove_vote(proof, ballot, self._roots, now))
            except Unproven as error:
                reasons.append(str(error))
        async with tenant_transaction(self._pool, key.tenant_id) as connection:
            standing = await _standing(connection, key.tenant_id, proven)
        revoked = [f"the key of {vote.subject} is revoked" for vote in proven if vote.fingerprint not in standing]
        voters = distinct_approvals(
            vote for vote in proven if vote.fingerprint in standing and vote.subject not in editors
        )
        if len(voters) < requirement.quorum:
            why = "; ".join([*reasons, *revoked]) or "there is no signed vote in the log"
            metrics.SIGNATURES_REFUSED.labels("execution").inc()
            log.warning("execution_refused", action_id=key.action_id, signed=len(voters), reason=why)
            raise Unproven(f"policy asks for {requirement.quorum} signed approvals, {len(voters)} hold: {why}")

    def _ballot(self, execution: Execution, requirement: ApprovalRequirement) -> Ballot:
        return Ballot(
            tenant=execution.key.tenant_id,
            approval_id=execution.key.action_id,
            content_hash=content_hash(execution.action, execution.args),
            policy_version=self._policy.version,
            requested_by=execution.requested_by,
            on_behalf_of=execution.on_behalf_of,
            roles=requirement.roles,
            exclude_requester=requirement.exclude_requester,
        )

    def _refused(self, check: VoteCheck, kind: RefusalType, message: str) -> Refusal:
        metrics.SIGNATURES_REFUSED.labels("vote").inc()
        log.warning(
            "vote_refused", approval_id=check.attempt.approval_id, subject=check.attempt.subject, reason=message
        )
        return Refusal(kind, message)


def _proofs(counted: Sequence[CountedVote]) -> list[SignedVote]:
    return [vote.proof for vote in counted if vote.proof is not None]


def _check_is_the_voters(vote: ProvenVote, attempt: DecisionRequest) -> None:
    if vote.subject != attempt.subject:
        raise Unproven(f"the signature is {vote.subject}'s, not {attempt.subject}'s")


async def _standing(connection: Connection, tenant_id: str, votes: Sequence[ProvenVote]) -> set[str]:
    rows = await connection.fetch(_STANDS, tenant_id, [vote.fingerprint for vote in votes])
    return {row["fingerprint"] for row in rows}


async def _check_stands(connection: Connection, tenant_id: str, votes: Sequence[ProvenVote]) -> None:
    if not await _standing(connection, tenant_id, votes):
        raise Unproven(f"key {votes[0].fingerprint} is not enrolled, or is revoked")


async def _count_on(connection: Connection, tenant_id: str, vote: ProvenVote, attempt: DecisionRequest) -> None:
    counted = await connection.fetchval(_COUNT_ON, tenant_id, vote.fingerprint, vote.sign_count, attempt.attempt_id)
    if counted is None:
        raise Unproven(
            f"the passkey's counter went back to {vote.sign_count}: there is a copy of it. Revoke it and enroll another"
        )
