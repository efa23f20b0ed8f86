"""What the attacker holds: database, Temporal and gateway."""

import json
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field, replace
from typing import Any

import httpx
import pytest
from temporalio.client import WorkflowHandle
from temporalio.exceptions import ApplicationError
from temporalio.testing import ActivityEnvironment

from flotilla.actions import ActionContext
from flotilla.approvals.ballot import Ballot
from flotilla.approvals.events import vote_counted_events
from flotilla.approvals.policy import ApprovalPolicy, parse_policy
from flotilla.contracts.approvals import ActionState, DecisionRequest, content_hash
from flotilla.contracts.envelope import to_json
from flotilla.contracts.ids import new_id, utc_now
from flotilla.contracts.json_types import JsonValue
from flotilla.contracts.votes import SignedVote, VoteReceipt
from flotilla.outbox import append
from flotilla.postgres import Pool, tenant_transaction
from flotilla.votes.roots import VoteRoots
from tests.integration.approvals.desk import Desk, Refused, open_desk
from tests.support.tickets import SIGNER
from tests.support.time_skipping import time_skipping_server
from tests.support.votes import (
    Ed25519Key,
    Voter,
    note_signers,
    roots_of,
)
from tests.support.waiting import eventually
from workflow_worker.actions.registry import ActionHandlerRegistry
from workflow_worker.activities.actions import ActionActivities
from workflow_worker.activities.signatures.actions import ActionExecution, ActionReference

SIGNED = """
version = "signed"
[defaults]
roles = ["approver"]
signature = "required"
editable_args = ["text"]
[actions.echo]
risk = "high"
[[actions.echo.raise_if]]
to = "high"
when = { text = ["two"] }
because = "it takes two"
"""
POLICY = parse_policy(SIGNED, "signed")
TWO = parse_policy(SIGNED.replace("editable_args", "quorum = 2\neditable_args"), "two")
ARGS: dict[str, Any] = {"text": "pay"}
HASH = content_hash("echo", ARGS)
ADD_SIGNER = """
INSERT INTO flotilla.signers (tenant_id, signer_id, subject, kind, name, fingerprint, credential_id, statement,
    approval, roles, approved_by, approved_at, expires_at)
VALUES ('acme', $1, $2, $3, 'a key', $4, $5, $6, $7, '{approver}', 'grace', now(), now() + interval '1 day')
"""
FORGED_SESSION = (
    "INSERT INTO flotilla.sessions (tenant_id, session_id, user_id) VALUES ('acme', 'forged', 'alice') "
    "ON CONFLICT DO NOTHING"
)
FORGED_ACTION = """
INSERT INTO flotilla.actions (tenant_id, action_id, session_id, workflow_id, action, description, args, risk_level,
    requested_by, request)
VALUES ('acme', 'forged', 'forged', 'w', 'echo', 'd', '{"text":"pay"}', 'low', 'alice', '{}') ON CONFLICT DO NOTHING
"""
FORGED_APPROVAL = """
INSERT INTO flotilla.approvals (tenant_id, approval_id, session_id, workflow_id, action, description, args,
    content_hash, risk_level, reasons, requested_by, requirement, policy_version, quorum, status, deadline_at)
VALUES ('acme', 'forged', 'forged', 'w', 'echo', 'd', '{"text":"pay"}', $1, 'low', '{}', 'alice', '{}', 'v', 1,
    'approved', now() + interval '1 day') ON CONFLICT DO NOTHING
"""
FORGED_DECISION = """
INSERT INTO flotilla.approval_decisions (tenant_id, approval_id, attempt_id, update_id, subject, decision, content_hash,
    policy_version, outcome, event_seq)
VALUES ('acme', 'forged', $1, $1, 'bob', 'approve', $2, 'v', 'counted', $3)
"""


@dataclass
class Hands:
    """What the attacker holds, and what the defenders do not share with it: `root`."""

    desk: Desk
    root: Ed25519Key
    roots: VoteRoots
    policy: ApprovalPolicy
    ran: list[str] = field(default_factory=list)
    """Actions whose effect happened."""

    @property
    def pool(self) -> Pool:
        return self.desk.pool

    def voter(self, subject: str, key: Any = None, **changes: Any) -> Voter:
        return Voter.made(subject, self.root, key, **changes)

    async def store(self, *voters: Voter) -> None:
        """Writes rows and events that say that these keys are enrolled and approved."""
        async with tenant_transaction(self.pool, "acme") as connection:
            for voter in voters:
                columns = (voter.fingerprint, voter.key.credential_id, to_json(voter.signer).decode())
                approval = to_json(voter.approval).decode()
                await connection.execute(ADD_SIGNER, new_id(), voter.subject, voter.key.kind, *columns, approval)
            await note_signers(connection, "acme", "signer_approved", *voters)

    async def revoke(self, voter: Voter) -> None:
        await self.desk.rows(
            "UPDATE flotilla.signers SET revoked_at = now() WHERE fingerprint = $1 RETURNING 1", voter.fingerprint
        )
        async with tenant_transaction(self.pool, "acme") as connection:
            await note_signers(connection, "acme", "signer_revoked", voter)

    async def waiting(self) -> WorkflowHandle[Any, ActionState]:
        """An action that waits for its votes."""
        handle = await self.desk.submit(risk="high", args=ARGS)
        await eventually(lambda: self.desk.in_inbox(handle))
        return handle

    async def decide(self, handle: WorkflowHandle[Any, ActionState], subject: str, proof: SignedVote | None) -> str:
        """Sends the Update `decide` as anybody; returns the refusal's type, or the approval's status."""
        try:
            answer = await self.desk.decide(handle, subject, seen=ARGS, proof=proof)
        except Refused as refusal:
            return str(refusal)
        return answer.approval_status

    def signed(self, voter: Voter, handle: WorkflowHandle[Any, ActionState] | None = None, **fields: Any) -> SignedVote:
        approval_id = handle.id.removeprefix("action-") if handle else "forged"
        given = {"approval_id": approval_id, "content_hash": HASH, "policy_version": self.policy.version}
        return voter.vote(**{**given, **fields})

    async def execute(
        self,
        *proofs: SignedVote | None,
        roots: VoteRoots | None = None,
        receipt: VoteReceipt | None = None,
        **claims: Any,
    ) -> str:
        """Writes rows and events by which these votes approved the action, then calls the executor as Temporal does.

        Returns `executed`, or the reason of the refusal.
        """
        await self._forge(*proofs, receipt=receipt)
        execution = ActionExecution(
            key=ActionReference(tenant_id="acme", action_id="forged", session_id="forged"),
            action="echo",
            args=ARGS,
            content_hash=HASH,
            approval_required=False,
            requested_by="alice",
        )
        registry = ActionHandlerRegistry({"echo": self.run})
        async with httpx.AsyncClient() as http:
            actions = ActionActivities(self.pool, self.policy, registry, http, signer=SIGNER, roots=roots or self.roots)
            try:
                await ActivityEnvironment().run(actions.execute_action, replace(execution, **claims))
            except ApplicationError as refusal:
                return f"{refusal.type}: {refusal.message}"
        return "executed"

    async def _forge(self, *proofs: SignedVote | None, receipt: VoteReceipt | None) -> None:
        async with tenant_transaction(self.pool, "acme") as connection:
            await connection.execute(FORGED_SESSION)
            await connection.execute(FORGED_ACTION)
            await connection.execute(FORGED_APPROVAL, HASH)
            for proof in proofs:
                attempt = replace(attempt_of(proof), receipt=receipt)
                appended = await append(connection, "acme", "forged", vote_counted_events(attempt, self._ballot())[:1])
                await connection.execute(FORGED_DECISION, attempt.attempt_id, HASH, appended.first_seq)

    def _ballot(self) -> Ballot:
        assessment = self.policy.assess_risk("echo", ARGS)
        return Ballot(
            approval_id="forged",
            action="echo",
            args=ARGS,
            requirement=self.policy.approval_requirement("echo", assessment),
            requested_by="alice",
            on_behalf_of="",
            deadline=utc_now(),
            status="approved",
        )

    async def run(self, context: ActionContext, _args: object) -> JsonValue:
        self.ran.append(context.action_id)
        return None


def attempt_of(proof: SignedVote | None) -> DecisionRequest:
    subject = "bob" if proof is None else json.loads(proof.vote.statement)["subject"]
    return DecisionRequest(
        approval_id="forged",
        attempt_id=new_id(),
        subject=subject,
        roles=["approver", "admin"],
        is_person=True,
        decision="approve",
        content_hash=HASH,
        proof=proof,
    )


@pytest.fixture
def root() -> Ed25519Key:
    return Ed25519Key()


@pytest.fixture
def policy() -> ApprovalPolicy:
    return POLICY


@pytest.fixture
async def hands(
    pool: Pool, unique: Callable[[str], str], root: Ed25519Key, policy: ApprovalPolicy
) -> AsyncIterator[Hands]:
    roots = roots_of(("grace", root))
    async with (
        time_skipping_server() as environment,
        open_desk(environment.client, pool, unique("queue"), policy=policy, roots=roots) as desk,
    ):
        yield Hands(desk, root, roots, policy)
