"""Proves the votes about a gated call before its tool runs: from the log, by the agent's own policy and roots."""

import asyncio
from dataclasses import dataclass, field

import structlog

from flotilla.approvals.policy import PolicySource
from flotilla.config.signing import PublicKeys
from flotilla.contracts.approvals import ApprovalRequirement, content_hash
from flotilla.contracts.errors import RetryLater, Undecodable
from flotilla.contracts.ids import Clock, utc_now
from flotilla.contracts.json_types import JsonObject
from flotilla.contracts.requests import RiskLevel
from flotilla.contracts.tasks import AgentTask
from flotilla.eventstore.signers import SigningKeyLog
from flotilla.eventstore.votes import load_task_call_votes
from flotilla.postgres import Pool, retry_later_if_unavailable
from flotilla.telemetry import metrics
from flotilla.votes.errors import Unproven
from flotilla.votes.proof import ExpectedVote
from flotilla.votes.quorum import CountedVote, VoteTrustAnchors, verify_quorum
from flotilla.votes.roots import VoteRoots

VOTES_IN_LOG_TIMEOUT_S = 10.0
"""How long a call waits for its votes to arrive in the log, before its task is tried again later."""
_POLL_S = 0.2
log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class VoteCheckRules:
    """By what an agent judges who may approve its calls. Nothing of it comes from a store."""

    policy: PolicySource
    roots: VoteRoots = field(default_factory=VoteRoots)


class GatedCallSignatureChecker:
    """The proofs of one agent's gated calls."""

    def __init__(self, pool: Pool, vote_rules: VoteCheckRules, keys: PublicKeys, *, clock: Clock = utc_now) -> None:
        self._pool = pool
        self._vote_rules = vote_rules
        self._keys = keys
        self._clock = clock
        self._signers = SigningKeyLog(pool)
        metrics.SIGNATURES_REFUSED.labels("execution")  # at 0 from the start, so that the first refusal shows

    async def check_signatures(
        self, task: AgentTask, approval_id: str, action: str, args: JsonObject, risk: RiskLevel
    ) -> None:
        """Check that as many people as policy asks for have signed exactly this call; nothing where it asks for none.

        Raises:
            Unproven: they have not.
            RetryLater: the log has not arrived yet, or PostgreSQL is unavailable.
        """
        policy = self._vote_rules.policy.current_policy
        requirement = policy.approval_requirement(action, policy.assess_risk(action, args, risk))
        if not requirement.required or requirement.signature != "required":
            return
        try:
            with retry_later_if_unavailable():
                await self._verify_quorum_of_votes(
                    task, _expected_vote(task, approval_id, action, args, requirement), requirement.quorum
                )
        except Unproven as error:
            metrics.SIGNATURES_REFUSED.labels("execution").inc()
            log.warning("call_refused", approval_id=approval_id, reason=str(error))
            raise

    async def _verify_quorum_of_votes(self, task: AgentTask, ballot: ExpectedVote, quorum: int) -> None:
        counted = await self._wait_for_counted_votes(task, ballot.approval_id)
        trust = VoteTrustAnchors(
            self._vote_rules.roots, await self._signers.load_signer_history(task.tenant_id), self._keys
        )
        verify_quorum(counted, ballot, quorum, trust, self._clock())

    async def _wait_for_counted_votes(self, task: AgentTask, approval_id: str) -> list[CountedVote]:
        deadline = asyncio.get_running_loop().time() + VOTES_IN_LOG_TIMEOUT_S
        while True:
            try:
                return await load_task_call_votes(self._pool, task.tenant_id, approval_id)
            except RetryLater:
                if asyncio.get_running_loop().time() > deadline:
                    raise
            except Undecodable as error:
                raise Unproven(f"the votes can't be read: {error}") from error
            await asyncio.sleep(_POLL_S)


def _expected_vote(
    task: AgentTask, approval_id: str, action: str, args: JsonObject, requirement: ApprovalRequirement
) -> ExpectedVote:
    return ExpectedVote(
        tenant=task.tenant_id,
        approval_id=approval_id,
        content_hash=content_hash(action, args),
        policy_version=requirement.policy_version,
        requested_by=f"/agents/{task.agent}",
        on_behalf_of=task.user_id or "",
        roles=requirement.roles,
        exclude_requester=requirement.exclude_requester,
    )
