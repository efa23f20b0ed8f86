"""Database, Temporal and gateway in hostile hands: without the signatures that policy asks for, nothing is executed.

The test plays all three: it sends the workflow any Update, calls the executor with any arguments, and writes any row
and any event. What it does not have are the people's private keys and the worker's own file of roots.
"""

import json
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import httpx
import pytest
from temporalio.client import WorkflowHandle
from temporalio.exceptions import ApplicationError
from temporalio.testing import ActivityEnvironment

from flotilla.actions import ActionContext
from flotilla.approvals.ballot import Ballot
from flotilla.approvals.events import counted_events
from flotilla.approvals.policy import ApprovalPolicy, parse_policy
from flotilla.config.signing import new_signer
from flotilla.contracts.approvals import ActionState, DecisionRequest, content_hash
from flotilla.contracts.envelope import to_builtins, to_json
from flotilla.contracts.ids import new_id, utc_now
from flotilla.contracts.json_types import JsonValue
from flotilla.contracts.votes import SignedVote, VoteReceipt
from flotilla.outbox import append
from flotilla.postgres import Pool, tenant_transaction
from flotilla.votes.receipts import issue_receipt
from flotilla.votes.roots import VoteRoots
from flotilla.votes.statements import written
from tests.integration.approvals.desk import Desk, Refused, open_desk
from tests.integration.gateway.conftest import Replica
from tests.support.tickets import SIGNER
from tests.support.time_skipping import time_skipping_server
from tests.support.votes import (
    Ed25519Key,
    Key,
    Passkey,
    SshKey,
    Voter,
    approved,
    enrolled,
    note_signers,
    now_text,
    roots_of,
    statement_of,
)
from tests.support.waiting import eventually
from tests.support.worker import running_worker
from workflow_worker.actions.registry import Registry
from workflow_worker.activities.actions import Actions
from workflow_worker.activities.signatures.actions import ActionKey, Execution

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
        execution = Execution(
            key=ActionKey(tenant_id="acme", action_id="forged", session_id="forged"),
            action="echo",
            args=ARGS,
            content_hash=HASH,
            approval_required=False,
            requested_by="alice",
        )
        registry = Registry({"echo": self.run})
        async with httpx.AsyncClient() as http:
            actions = Actions(self.pool, self.policy, registry, http, signer=SIGNER, roots=roots or self.roots)
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
                appended = await append(connection, "acme", "forged", counted_events(attempt, self._ballot())[:1])
                await connection.execute(FORGED_DECISION, attempt.attempt_id, HASH, appended.first_seq)

    def _ballot(self) -> Ballot:
        assessment = self.policy.assess("echo", ARGS)
        return Ballot(
            approval_id="forged",
            action="echo",
            args=ARGS,
            requirement=self.policy.requirement("echo", assessment),
            requested_by="alice",
            on_behalf_of="",
            deadline=utc_now(),
            status="approved",
        )

    async def run(self, context: ActionContext, _args: object) -> JsonValue:
        self.ran.append(context.action_id)
        return None


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


# Through Temporal: the Update, with any subject and any proof ------------------------------------------------------


async def test_an_unsigned_vote_of_anybody_counts_for_nothing(hands: Hands) -> None:
    handle = await hands.waiting()
    for subject in ("bob", "grace", "root"):
        assert await hands.decide(handle, subject, None) == "SignatureRequired"
    assert await hands.desk.rows("SELECT 1 FROM flotilla.action_executions") == []
    assert (await hands.desk.row("approvals", handle))["status"] == "pending"


@pytest.mark.parametrize("kind", ["ed25519", "ssh", "passkey"])
async def test_a_signed_vote_is_executed_and_is_in_the_log_with_its_proof(hands: Hands, kind: str) -> None:
    keys: dict[str, Callable[[], Key]] = {
        "ed25519": Ed25519Key,
        "ssh": SshKey,
        "passkey": Passkey,
    }
    bob = hands.voter("bob", keys[kind]())
    await hands.store(bob)
    handle = await hands.waiting()
    proof = hands.signed(bob, handle)
    assert await hands.decide(handle, "bob", proof) == "approved"
    assert (await handle.result()).status == "completed"
    counted = [
        event.data["details"] for event in await hands.desk.events(handle) if event.data["change"] == "approval_counted"
    ]
    assert [details["proof"]["vote"]["statement"] for details in counted] == [proof.vote.statement]  # type: ignore[index, call-overload]


async def test_a_vote_signed_for_something_else_is_refused_and_a_right_one_counts_after_it(
    hands: Hands,
) -> None:
    bob, carol = hands.voter("bob"), hands.voter("carol")
    await hands.store(bob, carol)
    handle = await hands.waiting()
    for fields in (
        {"content_hash": "0" * 64},
        {"approval_id": "another"},
        {"tenant": "globex"},
        {"policy_version": "older"},
        {"decision": "reject"},
        {"time": now_text(minutes=-20)},
    ):
        assert await hands.decide(handle, "bob", hands.signed(bob, handle, **fields)) == "SignatureInvalid", fields
    # Carol's vote does not count as Bob's, nor a second time as her own.
    assert await hands.decide(handle, "bob", hands.signed(carol, handle)) == "SignatureInvalid"
    assert await hands.decide(handle, "alice", hands.signed(bob, handle)) == "SelfApproval"
    assert await hands.decide(handle, "bob", hands.signed(bob, handle)) == "approved"
    assert (await handle.result()).status == "completed"


async def test_a_key_that_only_the_database_knows_signs_nothing(hands: Hands) -> None:
    invented, key = Ed25519Key(), Ed25519Key()
    signer = enrolled(key, "bob")
    forged = Voter("bob", key, signer, approved(signer, "bob", invented))
    itself = Voter("bob", key, signer, approved(signer, "bob", key))
    unapproved = Voter("bob", key, signer, signer)
    await hands.store(forged)
    handle = await hands.waiting()
    for voter in (forged, itself, unapproved):
        assert await hands.decide(handle, "bob", hands.signed(voter, handle)) == "SignatureInvalid"
        assert "not signed by grace" in await hands.execute(hands.signed(voter)) or voter is unapproved
    # Nor one whose approval never reached the database.
    unknown = hands.voter("bob")
    assert await hands.decide(handle, "bob", hands.signed(unknown, handle)) == "SignatureInvalid"
    assert hands.ran == []


async def test_a_copied_passkey_is_found_by_its_counter(hands: Hands) -> None:
    bob = hands.voter("bob", Passkey())
    assert isinstance(bob.key, Passkey)
    await hands.store(bob)
    first, second = await hands.waiting(), await hands.waiting()
    copy = replace(bob, key=replace(bob.key))
    assert await hands.decide(first, "bob", hands.signed(bob, first)) == "approved"
    assert await hands.decide(second, "bob", hands.signed(copy, second)) == "SignatureInvalid"
    assert await hands.decide(second, "bob", hands.signed(bob, second)) == "approved"


# At the executor: called as Temporal calls it, over rows and events that the attacker wrote --------------------------


async def test_rows_and_events_that_say_approved_execute_nothing(hands: Hands) -> None:
    assert "no signed vote" in await hands.execute()
    assert "no signed vote" in await hands.execute(None, None, None)
    assert "no signed vote" in await hands.execute(None, risk_level="low", approval_required=True)
    assert hands.ran == []
    bob = hands.voter("bob")
    await hands.store(bob)
    assert await hands.execute(hands.signed(bob)) == "executed"
    assert hands.ran == ["forged"]


async def test_a_real_vote_is_not_replayed(hands: Hands) -> None:
    bob = hands.voter("bob")
    await hands.store(bob)
    for fields in (
        {"content_hash": "0" * 64},
        {"approval_id": "another"},
        {"tenant": "globex"},
        {"policy_version": "older"},
        {"requested_by": "mallory"},
    ):
        assert "signed for" in await hands.execute(hands.signed(bob, None, **fields)), fields
    assert "0 hold" in await hands.execute(hands.signed(bob, decision="reject"))
    assert "asked for this" in await hands.execute(hands.signed(bob, requested_by="bob"), requested_by="bob")
    assert hands.ran == []


async def test_a_revoked_key_executes_nothing_even_if_the_table_hides_it(hands: Hands) -> None:
    bob = hands.voter("bob")
    await hands.store(bob)
    await hands.revoke(bob)
    assert "revoked" in await hands.execute(hands.signed(bob))
    await hands.desk.rows("UPDATE flotilla.signers SET revoked_at = NULL RETURNING 1")
    assert "was revoked" in await hands.execute(), "the log has it"
    listed = roots_of(("grace", hands.root), revoked=(bob.fingerprint,))
    assert "revoked" in await hands.execute(roots=listed)
    assert "not among the vote roots" in await hands.execute(roots=VoteRoots())
    assert hands.ran == []


async def test_the_place_in_the_log_decides_between_a_vote_and_a_revocation(hands: Hands) -> None:
    bob = hands.voter("bob")
    await hands.store(bob)
    before, after = hands.signed(bob), hands.signed(bob)
    await hands.revoke(bob)
    # The log ended with event 1, the approval of the key, when the worker checked the first vote.
    assert "was revoked" in await hands.execute(after, receipt=issue_receipt(SIGNER, "acme", "forged", after.vote, 2))
    for forged in (
        issue_receipt(new_signer(), "acme", "forged", after.vote, 1),
        issue_receipt(SIGNER, "globex", "forged", after.vote, 1),
        issue_receipt(SIGNER, "acme", "another", after.vote, 1),
        issue_receipt(SIGNER, "acme", "forged", hands.signed(bob, decision="reject").vote, 1),
        replace(issue_receipt(SIGNER, "acme", "forged", after.vote, 2), statement="{}"),
        replace(issue_receipt(SIGNER, "acme", "forged", after.vote, 1), signature="!"),
    ):
        assert "was revoked" in await hands.execute(after, receipt=forged)
    # One that claims more of the log than there is: events were taken away.
    assert "which ends at" in await hands.execute(after, receipt=issue_receipt(SIGNER, "acme", "forged", after.vote, 9))
    assert hands.ran == []
    assert await hands.execute(before, receipt=issue_receipt(SIGNER, "acme", "forged", before.vote, 1)) == "executed"


@pytest.mark.parametrize("policy", [TWO])
async def test_a_vote_that_was_counted_outlives_its_key_and_later_ones_do_not(hands: Hands) -> None:
    bob, carol = hands.voter("bob"), hands.voter("carol")
    await hands.store(bob, carol)
    first, second = await hands.waiting(), await hands.waiting()
    assert await hands.decide(first, "bob", hands.signed(bob, first)) == "pending"
    await hands.revoke(bob)
    assert await hands.decide(second, "bob", hands.signed(bob, second)) == "SignatureInvalid"
    assert await hands.decide(first, "carol", hands.signed(carol, first)) == "approved"
    assert (await first.result()).status == "completed"


async def test_a_worker_does_not_forget_what_a_database_takes_back(hands: Hands) -> None:
    bob = hands.voter("bob")
    await hands.store(bob)
    first, second = await hands.waiting(), await hands.waiting()
    assert await hands.decide(first, "bob", hands.signed(bob, first)) == "approved"
    await hands.revoke(bob)
    assert await hands.decide(second, "bob", hands.signed(bob, second)) == "SignatureInvalid"
    await hands.desk.rows("UPDATE flotilla.signers SET revoked_at = NULL RETURNING 1")
    await hands.desk.rows("UPDATE flotilla.sessions SET head_seq = 1 WHERE session_id = 'flotilla:audit' RETURNING 1")
    assert await hands.decide(second, "bob", hands.signed(bob, second)) == "SignatureInvalid"
    async with tenant_transaction(hands.pool, "acme") as connection:
        await note_signers(connection, "acme", "signer_approved", bob)  # in the revocation's place
    assert await hands.decide(second, "bob", hands.signed(bob, second)) == "SignatureInvalid"


@pytest.mark.parametrize("policy", [TWO])
async def test_a_quorum_is_of_people_not_of_keys_or_votes(hands: Hands) -> None:
    bob, again, carol = hands.voter("bob"), hands.voter("bob"), hands.voter("carol")
    await hands.store(bob, again, carol)
    assert "2 signed approvals, 1 hold" in await hands.execute(
        hands.signed(bob), hands.signed(bob), hands.signed(again)
    )
    assert hands.ran == []
    assert await hands.execute(hands.signed(carol)) == "executed"


async def test_who_edited_what_runs_is_not_among_those_who_approved_it(hands: Hands) -> None:
    bob = hands.voter("bob")
    await hands.store(bob)
    handle = await hands.desk.submit(risk="high", args={"text": "first"})
    await eventually(lambda: hands.desk.in_inbox(handle))
    await hands.desk.decide(handle, "bob", "edit", seen={"text": "first"}, args=ARGS)
    assert await hands.decide(handle, "bob", hands.signed(bob, handle)) == "OwnEdit"
    state = await hands.desk.state(handle)
    key = ActionKey(tenant_id="acme", action_id=state.action_id, session_id=state.action_id)
    async with tenant_transaction(hands.pool, "acme") as connection:
        attempt = replace(attempt_of(hands.signed(bob, handle)), approval_id=state.action_id)
        events = counted_events(attempt, replace(hands._ballot(), approval_id=state.action_id))[:1]
        appended = await append(connection, "acme", state.action_id, events)
        statement = FORGED_DECISION.replace("'forged'", f"'{state.action_id}'")
        await connection.execute(statement, attempt.attempt_id, HASH, appended.first_seq)
    assert "0 hold" in await hands.execute(key=key)
    assert hands.ran == []


# Through the API, with the real gateway and worker --------------------------------------------------------------------


async def test_people_sign_votes_through_the_api(
    replica: Replica, redis_url: str, temporal_address: str, tmp_path: Path, root: Ed25519Key
) -> None:
    policy, file = tmp_path / "policy.toml", tmp_path / "roots.toml"
    policy.write_text(SIGNED)
    file.write_text(
        f'[[roots]]\ntenant = "acme"\nsubject = "grace"\nkind = "ed25519"\npublic_key = "{root.public_key}"\n'
    )
    async with (
        replica(approval_policy=str(policy), vote_roots=file) as gateway,
        running_worker(
            dsn=gateway.database.dsn("flotilla_worker"),
            pool=gateway.pool,
            redis_url=redis_url,
            temporal_address=temporal_address,
            task_queue=gateway.settings.task_queue,
            policy=str(policy),
            vote_roots=file,
        ),
    ):
        alice, bob = [await gateway.client_of(name, "operator", "approver", person=True) for name in ("alice", "bob")]
        grace = await gateway.client_of("grace", "admin", person=True)
        key = Ed25519Key()
        signed = enrolled(key, "bob")
        signer = (await bob.post("/v1/signers", json=to_builtins(signed))).json()
        path = f"/v1/signers/{signer['signer_id']}"
        approval = approved(signed, "bob", root)
        assert (await grace.post(f"{path}/approval", json=to_builtins(approval))).status_code == 200
        action = (await alice.post("/v1/actions", json={"action": "echo", "description": "d", "args": ARGS})).json()
        where = f"/v1/approvals/{action['action_id']}"
        shown = await eventually(lambda: _found(bob, where), timeout_s=20)
        assert (shown["signature"], shown["signing_policy_version"]) == ("required", POLICY.version)

        async def vote(**more: Any) -> tuple[int, str]:
            answer = await bob.post(f"{where}/decision", json={"content_hash": HASH, **more})
            return answer.status_code, answer.json().get("code", answer.json().get("approval_status"))

        async def sign(decision: str = "approve", **fields: Any) -> dict[str, Any]:
            statement = statement_of(
                "bob",
                approval_id=action["action_id"],
                content_hash=HASH,
                policy_version=POLICY.version,
                decision=decision,
                **fields,
            )
            return {"signer_id": signer["signer_id"], **to_builtins(key.sign(written(statement)))}

        assert await vote(decision="approve") == (403, "signature_required")
        assert await vote(decision="approve", signature=await sign("reject")) == (403, "signature_invalid")
        assert await vote(decision="approve", signature=await sign(tenant="globex")) == (403, "signature_invalid")
        assert await vote(decision="approve", signature=await sign() | {"signer_id": "x"}) == (404, "not_found")
        first = await sign()
        assert await vote(decision="approve", signature=first) == (200, "approved")
        assert await vote(decision="approve", signature=await sign()) == (200, "approved")
        over = await eventually(lambda: _over(alice, action["action_id"]), timeout_s=20)
        assert (over["status"], over["votes"][0]["signed"]) == ("completed", True)


async def _found(client: httpx.AsyncClient, path: str) -> dict[str, Any] | None:
    answer = await client.get(path)
    found: dict[str, Any] = answer.json()
    return found if answer.status_code == 200 else None


async def _over(client: httpx.AsyncClient, action_id: str) -> dict[str, Any] | None:
    action = await _found(client, f"/v1/actions/{action_id}")
    return action if action and action["finished_at"] else None
