"""Database, Temporal and gateway in hostile hands: an agent runs no gated tool without the votes that policy asks for.

The test plays all three: it writes any row and any event, and has the task tried again whenever it likes. What it does
not have are the people's private keys and the agent's own file of roots.
"""

from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any

import pytest

from flotilla.agent import Agent, TaskContext
from flotilla.agent.proofs import VoteCheckRules
from flotilla.approvals.ballot import Ballot
from flotilla.approvals.events import vote_counted_events
from flotilla.approvals.policy import ApprovalPolicy, parse_policy
from flotilla.bus import Redis, connect_redis
from flotilla.contracts.approvals import ApprovalRequirement, DecisionRequest, content_hash
from flotilla.contracts.envelope import to_json
from flotilla.contracts.ids import new_id, utc_now
from flotilla.contracts.json_types import JsonObject
from flotilla.contracts.tasks import AgentTask
from flotilla.contracts.votes import SignedVote
from flotilla.outbox import append
from flotilla.postgres import Pool, TaskProof, acting_for_task, open_pool, tenant_transaction
from flotilla.telemetry.metrics import SIGNATURES_REFUSED
from flotilla.votes.roots import VoteRoots
from tests.support.agents import SESSION, TENANT, open_session, publish, replies, running, task
from tests.support.postgres import agent_dsn
from tests.support.votes import Ed25519Key, Passkey, SshKey, Voter, note_signers, roots_of
from tests.support.waiting import eventually

SIGNED = """
version = "signed"
[defaults]
roles = ["approver"]
signature = "required"
[actions."adder.send_mail"]
risk = "high"
"""
POLICY = parse_policy(SIGNED, "signed")
TWO = parse_policy(SIGNED.replace("signature =", "quorum = 2\nsignature ="), "two")
ARGS: JsonObject = {"text": "pay"}
FORGED_ACTION = """
INSERT INTO flotilla.actions (tenant_id, action_id, session_id, workflow_id, action, description, args, risk_level,
    requested_by, request, approval_status, status, finished_at)
VALUES ('default', $1, 's1', 'w', 'adder.send_mail', 'd', $2, 'low', '/agents/adder', $3, $4, 'approved', now())
ON CONFLICT (tenant_id, action_id) DO UPDATE SET args = excluded.args, approval_status = excluded.approval_status
"""
FORGED_APPROVAL = """
INSERT INTO flotilla.approvals (tenant_id, approval_id, session_id, workflow_id, action, description, args,
    content_hash, risk_level, reasons, requested_by, requirement, policy_version, quorum, status, deadline_at)
VALUES ('default', $1, 's1', 'w', 'adder.send_mail', 'd', '{}', 'h', 'low', '{}', '/agents/adder', '{}', 'v', 1,
    'approved', now() + interval '1 day') ON CONFLICT DO NOTHING
"""
FORGED_DECISION = """
INSERT INTO flotilla.approval_decisions (tenant_id, approval_id, attempt_id, update_id, subject, decision, content_hash,
    policy_version, outcome, event_seq)
VALUES ('default', $1, $2, $2, 'bob', 'approve', 'h', 'v', 'counted', $3)
"""


@dataclass(frozen=True)
class Mail:
    text: str = "pay"


@dataclass
class Hands:
    """What the attacker holds, and an agent that mails when it may."""

    pool: Pool
    redis: Redis
    root: Ed25519Key
    sent: list[str] = field(default_factory=list)
    tries: int = 0

    def agent(self) -> Agent:
        agent = Agent("adder")

        @agent.tool(approval="high")
        async def send_mail(text: str) -> Mail:
            """Sends a mail to everybody."""
            self.sent.append(text)
            return Mail(text)

        @agent.task
        async def add(ctx: TaskContext, mail: Mail) -> Mail:
            await ctx.tool("send_mail", text=mail.text)
            return mail

        return agent

    def voter(self, subject: str, key: Any = None, **changes: Any) -> Voter:
        return Voter.made(subject, self.root, key, tenant=TENANT, **changes)

    async def store(self, *voters: Voter) -> None:
        async with tenant_transaction(self.pool, TENANT) as connection:
            await note_signers(connection, TENANT, "signer_approved", *voters)

    async def revoke(self, voter: Voter) -> None:
        async with tenant_transaction(self.pool, TENANT) as connection:
            await note_signers(connection, TENANT, "signer_revoked", voter)

    async def paused(self) -> "Call":
        """A new task whose call of the tool waits for people."""
        wanted = task(f"t{new_id()}", user_id="alice", input={"text": "pay"})
        [needed] = (await self.answer(wanted))["failure"]["approvals"]
        return Call(self, wanted, needed["approval_id"])

    async def answer(self, wanted: AgentTask) -> dict[str, Any]:
        await publish(self.pool, self.redis, wanted)

        async def found() -> dict[str, Any] | None:
            mine = [reply for reply in await replies(self.redis) if reply["task_id"] == wanted.task_id]
            return next((reply for reply in mine if reply["attempt"] == wanted.attempt), None)

        return await eventually(found, timeout_s=20)


@dataclass
class Call:
    """A call that waits, and everything that the attacker writes about it."""

    hands: Hands
    task: AgentTask
    approval_id: str

    def vote(self, voter: Voter, **fields: Any) -> SignedVote:
        given = {
            "tenant": TENANT,
            "approval_id": self.approval_id,
            "content_hash": content_hash("adder.send_mail", ARGS),
            "policy_version": POLICY.version,
            "requested_by": "/agents/adder",
            "on_behalf_of": "alice",
        }
        return voter.vote(**{**given, **fields})

    async def tried(self, *proofs: SignedVote | None, args: JsonObject = ARGS, status: str = "approved") -> str:
        """Let the database say that these votes approved the call, and have the task tried again; what came of it."""
        async with tenant_transaction(self.hands.pool, TENANT) as connection:
            request = to_json({"task_id": self.task.task_id}).decode()
            await connection.execute(FORGED_ACTION, self.approval_id, to_json(args).decode(), request, status)
            await connection.execute(FORGED_APPROVAL, self.approval_id)
            for proof in proofs:
                event = vote_counted_events(self._attempt(proof), _ballot(self.approval_id, args))[0]
                appended = await append(connection, TENANT, SESSION, [event])
                await connection.execute(FORGED_DECISION, self.approval_id, new_id(), appended.first_seq)
        self.task = task(self.task.task_id, user_id="alice", input={"text": "pay"}, attempt=self.task.attempt + 1)
        reply = await self.hands.answer(self.task)
        return "done" if reply["status"] == "done" else f"{reply['failure']['type']}: {reply['failure']['message']}"

    def _attempt(self, proof: SignedVote | None) -> DecisionRequest:
        return DecisionRequest(
            approval_id=self.approval_id,
            attempt_id=new_id(),
            subject="bob",
            roles=["approver"],
            is_person=True,
            decision="approve",
            content_hash=content_hash("adder.send_mail", ARGS),
            proof=proof,
        )


def _ballot(approval_id: str, args: JsonObject) -> Ballot:
    requirement = ApprovalRequirement(required=True, risk_level="high", reasons=[], policy_version=POLICY.version)
    return Ballot(
        approval_id=approval_id,
        action="adder.send_mail",
        args=args,
        requirement=requirement,
        requested_by="/agents/adder",
        on_behalf_of="alice",
        deadline=utc_now(),
    )


@pytest.fixture
def root() -> Ed25519Key:
    return Ed25519Key()


@pytest.fixture
def policy() -> ApprovalPolicy:
    return POLICY


@pytest.fixture
def roots(root: Ed25519Key) -> VoteRoots:
    return roots_of(("grace", root), tenant=TENANT)


@pytest.fixture
async def redis(redis_url: str) -> AsyncIterator[Redis]:
    async with connect_redis(redis_url) as client:
        yield client


@pytest.fixture
async def hands(
    pool: Pool, redis: Redis, root: Ed25519Key, policy: ApprovalPolicy, roots: VoteRoots
) -> AsyncIterator[Hands]:
    it = Hands(pool, redis, root)
    await open_session(pool)
    async with running(it.agent(), pool, redis, vote_rules=VoteCheckRules(policy, roots)):
        yield it


@pytest.mark.parametrize("kind", [Ed25519Key, SshKey, Passkey])
async def test_a_call_that_people_signed_is_made(hands: Hands, kind: Callable[[], Any]) -> None:
    bob = hands.voter("bob", kind())
    await hands.store(bob)
    call = await hands.paused()
    assert await call.tried(call.vote(bob)) == "done"
    assert hands.sent == ["pay"]


async def test_rows_and_events_that_say_approved_run_no_tool(hands: Hands) -> None:
    refused = SIGNATURES_REFUSED.labels("execution")._value.get()
    for status in ("approved", "not_required"):
        call = await hands.paused()
        assert "there is no signed vote" in await call.tried(status=status)
        assert "there is no signed vote" in await call.tried(None, None, status=status)
    assert hands.sent == []
    assert SIGNATURES_REFUSED.labels("execution")._value.get() == refused + 4


async def test_a_real_vote_about_something_else_runs_no_tool(hands: Hands) -> None:
    bob = hands.voter("bob")
    await hands.store(bob)
    call = await hands.paused()
    for fields in (
        {"content_hash": "0" * 64},
        {"approval_id": "another"},
        {"tenant": "acme"},
        {"policy_version": "older"},
        {"requested_by": "/agents/another"},
        {"on_behalf_of": "carol"},
    ):
        assert "signed for" in await call.tried(call.vote(bob, **fields)), fields
    assert "0 hold" in await call.tried(call.vote(bob, decision="reject"))
    # What people signed is not what the database says that they saw.
    assert "content_hash" in await call.tried(call.vote(bob), args={"text": "pay mallory"})
    assert hands.sent == []


async def test_a_key_that_no_root_approved_runs_no_tool(hands: Hands) -> None:
    stranger = Voter.made("bob", Ed25519Key(), tenant=TENANT)
    alice = hands.voter("alice")
    await hands.store(stranger, alice)
    call = await hands.paused()
    assert "not signed by grace" in await call.tried(call.vote(stranger))
    assert "asked for this action" in await call.tried(call.vote(alice))
    assert hands.sent == []


async def test_a_revoked_key_runs_no_tool_whatever_the_tables_say(hands: Hands) -> None:
    bob, never = hands.voter("bob"), hands.voter("bob")
    await hands.store(bob)
    await hands.revoke(bob)
    call = await hands.paused()
    assert "was revoked" in await call.tried(call.vote(bob))
    await hands.store(bob)  # approved once more, as the log says now
    assert "was revoked" in await call.tried(call.vote(bob))
    assert "is not enrolled" in await call.tried(call.vote(never))
    async with tenant_transaction(hands.pool, TENANT) as connection:
        await connection.execute("UPDATE flotilla.sessions SET head_seq = 1 WHERE session_id = 'flotilla:audit'")
    assert "went back" in await call.tried(call.vote(bob))
    assert hands.sent == []


@pytest.mark.parametrize("policy", [TWO])
async def test_a_quorum_is_of_people(hands: Hands, policy: ApprovalPolicy) -> None:
    bob, again, carol = hands.voter("bob"), hands.voter("bob"), hands.voter("carol")
    await hands.store(bob, again, carol)
    call = await hands.paused()
    votes = [call.vote(voter, policy_version=policy.version) for voter in (bob, again, carol)]
    assert "2 signed approvals, 1 hold" in await call.tried(*votes[:2])
    assert await call.tried(votes[2]) == "done"


@pytest.mark.parametrize("roots", [VoteRoots()])
async def test_an_agent_without_roots_runs_no_tool(hands: Hands, roots: VoteRoots) -> None:
    assert not roots.roots
    bob = hands.voter("bob")
    await hands.store(bob)
    call = await hands.paused()
    assert "not among the vote roots" in await call.tried(call.vote(bob))
    assert hands.sent == []


async def test_an_agent_reads_the_votes_of_its_own_open_task_only(hands: Hands) -> None:
    bob = hands.voter("bob")
    await hands.store(bob)
    mine, other = await hands.paused(), await hands.paused()
    for call in (mine, other):
        await call.tried(call.vote(bob, approval_id="another"))
    held = TaskProof(task_id=mine.task.task_id, attempt=mine.task.attempt, secret=mine.task.secret or "")
    async with open_pool(await agent_dsn(hands.pool, "adder"), application="thief") as thief:

        async def votes(approval_id: str) -> int:
            async with tenant_transaction(thief, TENANT) as connection:
                return len(await connection.fetch("SELECT * FROM flotilla.task_votes($1)", approval_id))

        assert await votes(mine.approval_id) == 0
        with pytest.raises(Exception, match="holds no open task"):
            async with tenant_transaction(thief, TENANT) as connection:
                await connection.fetch("SELECT * FROM flotilla.signer_events(0)")
        with acting_for_task(held):
            assert (await votes(mine.approval_id), await votes(other.approval_id)) == (1, 0)
