"""The standalone verifier checks the signed votes of a history, and finds approvals that lack them."""

from datetime import UTC, datetime
from itertools import count
from typing import Any

import pytest

from flotilla.approvals.ballot import Ballot
from flotilla.approvals.events import vote_counted_events
from flotilla.audit.export_votes import ExportedVoteChecker
from flotilla.contracts.approvals import ApprovalRequirement, DecisionRequest, content_hash
from flotilla.contracts.envelope import AgentEvent, encode_event, from_json
from flotilla.contracts.session_events import session_event_type
from flotilla.contracts.votes import SignedVote
from flotilla.votes.roots import VoteRoots
from tests.support.votes import Ed25519Key, Voter, roots_of

ARGS: dict[str, Any] = {"text": "pay"}
HASH = content_hash("echo", ARGS)


def counted(subject: str, proof: SignedVote | None, *, quorum: int = 1, is_last: bool = True) -> list[bytes]:
    requirement = ApprovalRequirement(
        required=True, risk_level="high", reasons=[], policy_version="v1", quorum=quorum, signature="required"
    )
    ballot = Ballot(
        approval_id="a1",
        action="echo",
        args=ARGS,
        requirement=requirement,
        requested_by="alice",
        on_behalf_of="",
        deadline=datetime.now(UTC),
        status="approved" if is_last else "pending",
    )
    attempt = DecisionRequest(
        approval_id="a1",
        attempt_id="t1",
        subject=subject,
        roles=["approver"],
        is_person=True,
        decision="approve",
        content_hash=HASH,
        proof=proof,
    )
    return [
        encode_event(AgentEvent(type=session_event_type(event.kind), source=event.source, subject="s", data=event.data))
        for event in vote_counted_events(attempt, ballot)
    ]


def first_problem(bodies: list[bytes], roots: VoteRoots | None) -> str | None:
    votes = ExportedVoteChecker("acme", roots)
    return next(filter(None, map(votes.problem, count(1), bodies)), None)


@pytest.fixture
def root() -> Ed25519Key:
    return Ed25519Key()


def test_signed_votes_hold_up_to_a_root(root: Ed25519Key) -> None:
    votes = ExportedVoteChecker("acme", roots_of(("grace", root)))
    bodies = counted("bob", Voter.made("bob", root).vote(content_hash=HASH))
    assert [votes.problem(1, body) for body in bodies] == [None, None]
    assert (votes.proven, votes.unchecked) == (1, 0)


def test_without_roots_they_are_counted_only(root: Ed25519Key) -> None:
    votes = ExportedVoteChecker("acme", None)
    bodies = counted("bob", Voter.made("bob", root).vote(content_hash=HASH))
    assert [votes.problem(1, body) for body in bodies] == [None, None]
    assert (votes.proven, votes.unchecked) == (0, 1)


@pytest.mark.parametrize("with_roots", [True, False])
def test_an_approval_without_the_signatures_that_policy_asked_for_is_found(root: Ed25519Key, with_roots: bool) -> None:
    roots = roots_of(("grace", root)) if with_roots else None
    vote = Voter.made("bob", root).vote(content_hash=HASH)
    assert "0 signed votes" in str(first_problem(counted("bob", None), roots))
    twice = [*counted("bob", vote, quorum=2, is_last=False), *counted("bob", vote, quorum=2)]
    assert "1 signed votes, policy asked for 2" in str(first_problem(twice, roots))
    other = Voter.made("carol", root).vote(content_hash=HASH)
    assert (
        first_problem([*counted("bob", vote, quorum=2, is_last=False), *counted("carol", other, quorum=2)], roots)
        is None
    )


@pytest.mark.parametrize(
    "fields",
    [
        {"approval_id": "a2"},
        {"content_hash": "0" * 64},
        {"tenant": "globex"},
        {"decision": "reject"},
        {"requested_by": "bob"},
    ],
)
def test_a_vote_about_something_else_is_found(root: Ed25519Key, fields: dict[str, str]) -> None:
    vote = Voter.made("bob", root).vote(**{"content_hash": HASH, **fields})
    assert first_problem(counted("bob", vote), roots_of(("grace", root))) is not None


def test_votes_by_other_keys_or_in_other_names_are_found(root: Ed25519Key) -> None:
    roots, bob = roots_of(("grace", root)), Voter.made("bob", root)
    assert "bob's" in str(first_problem(counted("carol", bob.vote(content_hash=HASH)), roots))
    stranger = Voter.made("bob", Ed25519Key())
    assert "not signed by grace" in str(first_problem(counted("bob", stranger.vote(content_hash=HASH)), roots))


def test_what_is_not_a_vote_is_found(root: Ed25519Key) -> None:
    [body, _] = counted("bob", None)
    event = from_json(body, AgentEvent)
    for details in (5, {}, {"action_id": 5}, {**event.data["details"], "proof": {"vote": 5}}):  # type: ignore[dict-item]
        changed = encode_event(
            AgentEvent(
                type=event.type, source="/x", subject="s", data={"change": "approval_counted", "details": details}
            )
        )
        assert "not a vote" in str(first_problem([changed], roots_of(("grace", root))))
