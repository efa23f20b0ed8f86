"""One vote, in any order of attempts, edits, cancellation and deadline: one outcome, and only a rightful one."""

from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Literal, TypeAlias

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flotilla.actions.arguments import check_action_args
from flotilla.approvals.ballot import Ballot
from flotilla.contracts.approvals import ApprovalRequirement, Decision, DecisionRequest, content_hash
from flotilla.contracts.json_types import JsonObject
from tests.support.properties import examples

START = datetime(2030, 1, 1, tzinfo=UTC)
DEADLINE = START + timedelta(hours=24)
TEXTS = ("hello", "goodbye", "hello again")
REQUESTER, ROOT, FIT = "alice", "root", ("bob", "carol", "dave")
Happening: TypeAlias = Literal["vote", "cancel", "deadline"]


def ballot(quorum: int = 1, verdict: Literal["reject", "approve"] = "reject") -> Ballot:
    """A vote on an `echo` that alice asked for, on behalf of root."""
    requirement = ApprovalRequirement(
        required=True,
        risk_level="high",
        reasons=[],
        policy_version="1",
        roles=["approver"],
        quorum=quorum,
        verdict_at_deadline=verdict,
        editable_args=["text"],
    )
    return Ballot(
        approval_id="a",
        action="echo",
        args={"text": TEXTS[0]},
        requirement=requirement,
        requested_by=REQUESTER,
        on_behalf_of=ROOT,
        deadline=DEADLINE,
    )


@dataclass(frozen=True)
class Attempt:
    """What somebody tries, about the text that they saw."""

    subject: str
    decision: Decision = "approve"
    seen: str = TEXTS[0]
    text: str = TEXTS[1]
    role: str = "approver"
    is_person: bool = True

    def request(self) -> DecisionRequest:
        args: JsonObject | None = {"text": self.text} if self.decision == "edit" else None
        return DecisionRequest(
            approval_id="a",
            attempt_id="t",
            subject=self.subject,
            roles=[self.role],
            is_person=self.is_person,
            decision=self.decision,
            content_hash=content_hash("echo", {"text": self.seen}),
            args=args,
        )


def after(state: Ballot, attempt: Attempt, now: datetime = START) -> Ballot:
    """The vote after `attempt`, whether it counted or not."""
    request = attempt.request()
    return state if state.why_not_counted(request, now, check_action_args) else state.with_counted_vote(request)


ATTEMPTS = st.builds(
    Attempt,
    subject=st.sampled_from([REQUESTER, ROOT, *FIT]),
    decision=st.sampled_from(["approve", "approve", "reject", "edit"]),
    seen=st.sampled_from(TEXTS),
    text=st.sampled_from(TEXTS),
    role=st.sampled_from(["approver", "approver", "viewer"]),
    is_person=st.sampled_from([True, True, False]),
)
STORY = st.lists(ATTEMPTS | st.sampled_from(["cancel", "deadline"]), max_size=14)


def happen(state: Ballot, what: "Attempt | str") -> Ballot:
    if isinstance(what, Attempt):
        return after(state, what)
    return state.close_by_cancellation() if what == "cancel" else state.close_at_deadline()


@given(story=STORY, quorum=st.integers(1, 3))
@settings(max_examples=examples(500), deadline=None)
def test_whatever_happens_there_is_one_outcome_and_a_rightful_one(story: list[Attempt | str], quorum: int) -> None:
    state = ballot(quorum)
    for what in story:
        before, state = state, happen(state, what)
        if before.is_vote_final:
            assert state == before
    # As a bystander counts: who may vote, said yes to exactly what would run, and did not write it.
    agreed = {vote.subject for vote in state.votes if vote.decision == "approve"}
    if state.status == "approved":
        exactly = {v.subject for v in state.votes if v.decision == "approve" and v.content_hash == state.content_hash}
        assert len((exactly & set(FIT)) - {state.edited_by}) >= quorum
    assert agreed <= set(FIT)
    assert (state.status == "rejected") == any(vote.decision == "reject" for vote in state.votes)


@given(order=st.permutations(["vote", "cancel", "deadline"]))
def test_of_vote_cancellation_and_deadline_the_first_has_its_way(order: list[Happening]) -> None:
    state = ballot()
    for what in order:
        state = after(state, Attempt("bob")) if what == "vote" else happen(state, what)
    assert state.status == {"vote": "approved", "cancel": "cancelled", "deadline": "timeout"}[order[0]]


def test_nobody_approves_their_own_edit_by_a_vote_from_before_it() -> None:
    """bob approves the first text; carol changes it; bob changes it back: his early vote is for his own edit now."""
    state = ballot(quorum=2)
    for attempt in (
        Attempt("bob"),
        Attempt("carol", "edit", text=TEXTS[1]),
        Attempt("bob", "edit", seen=TEXTS[1], text=TEXTS[0]),
    ):
        state = after(state, attempt)
    assert (state.args, state.counted_approvals) == ({"text": TEXTS[0]}, 0)
    state = after(state, Attempt("carol"))
    assert state.status == "pending"
    assert after(state, Attempt("dave")).status == "approved"


def test_a_vote_at_the_deadline_is_late_although_nobody_has_closed_the_vote_yet() -> None:
    """As when no worker ran while the deadline passed."""
    request = Attempt("bob").request()
    assert ballot().why_not_counted(request, DEADLINE - timedelta(microseconds=1), check_action_args) is None
    late = ballot().why_not_counted(request, DEADLINE, check_action_args)
    assert late is not None
    assert late.type == "Late"


@pytest.mark.parametrize(("verdict", "status"), [("reject", "timeout"), ("approve", "approved")])
def test_policy_says_what_silence_means(verdict: Literal["reject", "approve"], status: str) -> None:
    assert ballot(verdict=verdict).close_at_deadline().status == status


def test_the_requester_decides_only_where_policy_lets_them() -> None:
    request = Attempt(REQUESTER).request()
    refused = ballot().why_not_counted(request, START, check_action_args)
    assert refused is not None
    assert refused.type == "SelfApproval"
    lenient = replace(ballot(), requirement=replace(ballot().requirement, exclude_requester=False))
    assert lenient.why_not_counted(request, START, check_action_args) is None


def attempted(subject: str, issued_by: list[str]) -> DecisionRequest:
    return replace(Attempt(subject).request(), issued_by=issued_by)


@pytest.mark.parametrize(
    ("through", "by_service", "voter", "issued_by", "counts"),
    [
        ([], False, "bob", [], True),
        ([], False, "bob", ["ada"], True),
        ([], False, "bob", [REQUESTER], False),
        ([], False, "bob", ["carol", REQUESTER], False),
        ([], False, "bob", [ROOT], False),
        (["ada"], False, "ada", [], False),
        (["bob", "ada"], False, "ada", [], False),
        (["ada"], False, "bob", ["ada"], True),
        (["ada"], True, "bob", ["ada"], False),
        (["ada"], True, "bob", [], True),
        (["ada"], True, "ada", [], False),
    ],
)
def test_somebody_who_issued_a_key_is_not_a_second_person(
    through: list[str], by_service: bool, voter: str, issued_by: list[str], counts: bool
) -> None:
    state = replace(ballot(), requested_through=tuple(through), requested_by_service=by_service)
    refusal = state.why_not_counted(attempted(voter, issued_by), START, check_action_args)
    assert (refusal is None) == counts
    assert refusal is None or refusal.type == "SelfApproval"


def test_who_issued_the_asking_key_as_shows_at_the_vote_does_not_decide() -> None:
    """Where an agent asks, only the gateway knows by whose keys the question was asked."""
    for voter, counts in (("ada", False), ("bob", True)):
        attempt = replace(attempted(voter, []), asked_through=["ada", "carol"])
        assert (ballot().why_not_counted(attempt, START, check_action_args) is None) == counts


def test_an_edit_that_raises_the_risk_needs_what_policy_asks_for_it() -> None:
    stricter = replace(ballot().requirement, quorum=2, roles=["admin"])
    edited = ballot().with_counted_vote(Attempt("bob", "edit").request(), stricter)
    assert edited.why_not_counted(Attempt("carol", seen=TEXTS[1]).request(), START, check_action_args) is not None
    fit = Attempt("carol", seen=TEXTS[1], role="admin")
    assert edited.why_not_counted(fit.request(), START, check_action_args) is None
    assert after(edited, fit).status == "pending"
