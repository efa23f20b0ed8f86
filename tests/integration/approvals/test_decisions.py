"""Every way a vote can go."""

import asyncio
from datetime import timedelta
from typing import Any

import pytest
from temporalio.client import WorkflowFailureError
from temporalio.service import RPCError, RPCStatusCode

from flotilla.contracts.approvals import DecisionAnswer
from flotilla.contracts.json_types import JsonObject
from tests.integration.approvals.desk import ALICE, BOB, CAROL, DAVE, Desk, Refused, loaded
from tests.support.waiting import eventually

EDITED = {"text": "goodbye"}


async def submitted(desk: Desk, **how: Any) -> Any:
    """An action that waits in the inbox."""
    handle = await desk.submit(**how)

    async def waits() -> bool:
        return await desk.in_inbox(handle) and (await desk.state(handle)).status == "awaiting_approval"

    await eventually(waits, timeout_s=30)
    return handle


async def test_a_harmless_action_is_executed_at_once(desk: Desk) -> None:
    handle = await desk.submit(risk="low")
    state = await handle.result()
    assert (state.status, state.approval_status, state.result) == ("completed", "not_required", {"text": "hello"})
    assert await desk.changes(handle) == ["action_submitted", "action_analyzed", "action_completed"]
    row = await desk.row("actions", handle)
    assert (row["status"], loaded(row["result"])) == ("completed", {"text": "hello"})


async def test_an_approved_action_is_executed(desk: Desk) -> None:
    handle = await submitted(desk)
    waiting = await desk.state(handle)
    assert (waiting.status, waiting.current_step, waiting.approval_status) == (
        "awaiting_approval",
        "wait_for_approval",
        "pending",
    )
    answer = await desk.decide(handle, BOB)
    assert (answer.approval_status, answer.approvals, answer.quorum) == ("approved", 1, 1)
    state = await handle.result()
    assert (state.status, state.approval_status, state.result) == ("completed", "approved", {"text": "hello"})
    assert await desk.changes(handle) == [
        "action_submitted",
        "action_analyzed",
        "approval_requested",
        "approval_counted",
        "action_approved",
        "action_completed",
    ]
    row = await desk.row("approvals", handle)
    assert (row["status"], [vote["subject"] for vote in loaded(row["votes"])]) == ("approved", [BOB])


async def test_a_rejected_action_is_not_executed(desk: Desk) -> None:
    handle = await submitted(desk)
    assert (await desk.decide(handle, BOB, "reject")).approval_status == "rejected"
    state = await handle.result()
    assert (state.status, state.approval_status, state.result) == ("rejected", "rejected", None)
    assert await desk.rows("SELECT 1 FROM flotilla.action_executions") == []


async def test_an_edit_must_be_approved_by_somebody_else_and_is_what_runs(desk: Desk) -> None:
    handle = await submitted(desk)
    edit = await desk.decide(handle, BOB, "edit", args=EDITED)
    assert edit.approval_status == "pending"
    with pytest.raises(Refused, match="OwnEdit"):
        await desk.decide(handle, BOB, seen=EDITED)
    with pytest.raises(Refused, match="StaleHash"):
        await desk.decide(handle, CAROL)
    await desk.decide(handle, CAROL, seen=EDITED)
    state = await handle.result()
    assert (state.status, state.result) == ("completed", EDITED)
    assert (await desk.row("approvals", handle))["content_hash"] == edit.content_hash


async def test_an_edit_that_raises_the_risk_is_decided_under_the_stricter_rule(desk: Desk) -> None:
    handle = await submitted(desk)
    wiped: JsonObject = {"text": "wipe"}
    edit = await desk.decide(handle, BOB, "edit", args=wiped)
    assert (edit.approval_status, edit.quorum) == ("pending", 2)
    row = await desk.row("approvals", handle)
    assert (row["risk_level"], row["quorum"], row["reasons"][-1]) == ("high", 2, "policy: it wipes")
    assert (await desk.decide(handle, CAROL, seen=wiped)).approval_status == "pending"
    assert (await desk.decide(handle, DAVE, seen=wiped)).approval_status == "approved"
    assert (await handle.result()).result == wiped


async def test_an_edit_never_lowers_the_risk(desk: Desk) -> None:
    handle = await submitted(desk, args={"text": "wipe"})
    edit = await desk.decide(handle, BOB, "edit", args=EDITED, seen={"text": "wipe"})
    assert edit.quorum == 2
    assert (await desk.row("approvals", handle))["risk_level"] == "high"


async def test_an_edit_back_to_what_was_asked_for_keeps_the_stricter_rule_and_no_vote(desk: Desk) -> None:
    handle = await submitted(desk)
    wiped: JsonObject = {"text": "wipe"}
    await desk.decide(handle, BOB, "edit", args=wiped)
    await desk.decide(handle, CAROL, seen=wiped)
    back = await desk.decide(handle, DAVE, "edit", args={"text": "hello"}, seen=wiped)
    assert (back.approval_status, back.quorum, back.approvals) == ("pending", 2, 0)
    with pytest.raises(Refused, match="StaleHash"):
        await desk.decide(handle, BOB, seen=wiped)
    with pytest.raises(Refused, match="OwnEdit"):
        await desk.decide(handle, DAVE)
    assert (await desk.decide(handle, BOB)).approval_status == "pending"
    assert (await desk.decide(handle, CAROL)).approval_status == "approved"


async def test_two_of_three_must_approve_and_a_repeated_vote_counts_once(desk: Desk) -> None:
    handle = await submitted(desk, risk="high")
    first = await desk.decide(handle, BOB)
    assert (first.approval_status, first.approvals, first.quorum) == ("pending", 1, 2)
    assert await desk.decide(handle, BOB) == first
    assert (await desk.state(handle)).approval_status == "pending"
    second = await desk.decide(handle, CAROL)
    assert (second.approval_status, second.approvals) == ("approved", 2)
    assert (await handle.result()).status == "completed"
    counted = [change for change in await desk.changes(handle) if change == "approval_counted"]
    assert len(counted) == 2


async def test_approvals_of_what_was_before_an_edit_do_not_count(desk: Desk) -> None:
    handle = await submitted(desk, risk="high")
    await desk.decide(handle, BOB)
    await desk.decide(handle, CAROL, "edit", args=EDITED)
    answer = await desk.decide(handle, DAVE, seen=EDITED)
    assert (answer.approval_status, answer.approvals) == ("pending", 1)
    assert (await desk.decide(handle, BOB, seen=EDITED)).approval_status == "approved"
    assert (await handle.result()).result == EDITED


@pytest.mark.parametrize(
    ("how", "refusal"),
    [
        ({"subject": ALICE}, "SelfApproval"),
        ({"subject": "root"}, "SelfApproval"),
        ({"subject": BOB, "roles": ("viewer", "operator")}, "WrongRole"),
        ({"subject": "ci", "is_person": False}, "NotAPerson"),
        ({"subject": BOB, "seen": {"text": "other"}}, "StaleHash"),
        ({"subject": BOB, "decision": "reject", "reason": " "}, "ReasonRequired"),
        ({"subject": BOB, "decision": "edit", "args": {"text": "x", "more": 1}}, "NotEditable"),
        ({"subject": BOB, "decision": "edit", "args": {"text": 5}}, "InvalidArgs"),
        ({"subject": BOB, "decision": "edit", "args": {"text": "hello"}}, "InvalidArgs"),
        ({"subject": BOB, "decision": "edit"}, "InvalidArgs"),
    ],
)
async def test_an_attempt_that_policy_forbids_changes_nothing(desk: Desk, how: dict[str, Any], refusal: str) -> None:
    handle = await submitted(desk, on_behalf_of="root")
    before = await desk.state(handle)
    with pytest.raises(Refused, match=refusal):
        await desk.decide(handle, **how)
    assert await desk.state(handle) == before
    await desk.decide(handle, BOB)
    assert (await handle.result()).status == "completed"


async def test_the_same_vote_again_gets_the_first_answer_even_when_all_is_over(desk: Desk) -> None:
    handle = await submitted(desk, risk="high")
    first = await desk.decide(handle, BOB)
    await desk.decide(handle, CAROL, "reject")
    rows = await desk.rows("SELECT answer FROM flotilla.approval_decisions WHERE subject = 'bob'")
    assert [loaded(row["answer"])["approvals"] for row in rows] == [first.approvals]
    assert await desk.decide(handle, BOB) == first


async def test_of_two_votes_in_the_same_instant_one_decides(desk: Desk) -> None:
    handle = await submitted(desk)
    votes = await asyncio.gather(desk.decide(handle, BOB), desk.decide(handle, CAROL, "reject"), return_exceptions=True)
    answers = [vote for vote in votes if isinstance(vote, DecisionAnswer)]
    assert len(answers) == 1, votes
    state = await handle.result()
    assert state.approval_status == answers[0].approval_status
    assert len(state.votes) == 1


async def test_a_reminder_goes_out_once_and_the_deadline_rejects(desk: Desk) -> None:
    handle = await submitted(desk)
    state = await handle.result()
    assert (state.status, state.approval_status) == ("timeout", "timeout")
    assert await desk.changes(handle) == [
        "action_submitted",
        "action_analyzed",
        "approval_requested",
        "approval_reminded",
        "approval_timed_out",
        "action_timeout",
    ]
    assert (await desk.row("approvals", handle))["reminded_at"] is not None
    assert await desk.rows("SELECT 1 FROM flotilla.action_executions") == []


async def test_no_reminder_goes_out_once_it_is_decided(desk: Desk) -> None:
    handle = await submitted(desk)
    await desk.decide(handle, BOB)
    await handle.result()
    assert "approval_reminded" not in await desk.changes(handle)


async def test_policy_can_let_an_action_run_at_its_deadline(desk: Desk) -> None:
    handle = await submitted(desk, action="publish_answer", args={"run_id": "none"})
    state = await handle.result()
    assert (state.status, state.approval_status) == ("failed", "approved")
    assert state.error == "NotFound: no run none: GET /v1/runs lists those that you may see"
    assert "action_approved" in await desk.changes(handle)


async def test_a_late_decision_is_refused(desk: Desk) -> None:
    handle = await submitted(desk, risk="high")
    assert desk.environment is not None
    await desk.environment.sleep(timedelta(hours=23))
    await desk.decide(handle, BOB)
    assert (await handle.result()).status == "timeout"
    with pytest.raises(RPCError) as caught:
        await desk.decide(handle, CAROL)
    assert caught.value.status == RPCStatusCode.NOT_FOUND


async def test_a_decision_before_the_wait_counts(desk: Desk) -> None:
    handle = await desk.submit()
    answer = await desk.decide(handle, BOB)
    assert answer.approval_status == "approved"
    assert (await handle.result()).status == "completed"


async def test_a_cancelled_action_closes_its_vote(desk: Desk) -> None:
    handle = await submitted(desk)
    await handle.cancel()
    with pytest.raises(WorkflowFailureError):
        await handle.result()
    action, approval = await desk.row("actions", handle), await desk.row("approvals", handle)
    assert (action["status"], action["approval_status"], approval["status"]) == ("cancelled",) * 3
    assert (await desk.changes(handle))[-2:] == ["approval_cancelled", "action_cancelled"]


async def test_an_action_that_nobody_knows_fails_and_reports_it(desk: Desk) -> None:
    state = await (await desk.submit(action="launch")).result()
    assert state.status == "failed"
    assert "unknown action 'launch'" in str(state.error)


async def test_a_signal_counts_where_policy_allows_it(desk: Desk) -> None:
    await desk.add_person(BOB, "approver")
    handle = await submitted(desk, action="http_request", args={"method": "GET", "url": "http://nowhere/"})
    await desk.signal(handle, BOB, approved=True)
    state = await handle.result()
    assert (state.approval_status, state.votes[0].authenticated) == ("approved", False)
    attempted = [event for event in await desk.events(handle) if event.data["change"] == "approval_attempted"]
    assert len(attempted) == 1


@pytest.mark.parametrize(
    ("action", "reviewer", "refusal"),
    [
        ("echo", BOB, "SignalNotAllowed"),
        ("http_request", "mallory", "NotAPerson"),
        ("http_request", CAROL, "WrongRole"),
    ],
)
async def test_a_signal_that_does_not_count_is_on_record(desk: Desk, action: str, reviewer: str, refusal: str) -> None:
    await desk.add_person(BOB, "approver")
    await desk.add_person(CAROL, "viewer")
    args = {"text": "hello"} if action == "echo" else {"method": "GET", "url": "http://nowhere/"}
    handle = await submitted(desk, action=action, args=args)
    await desk.signal(handle, reviewer, approved=True)

    async def recorded() -> Any:
        return await desk.rows("SELECT refusal, authenticated FROM flotilla.approval_decisions")

    [row] = await eventually(recorded)
    assert tuple(row) == (refusal, False)
    assert (await desk.state(handle)).approval_status == "pending"
    assert (await desk.changes(handle))[-2:] == ["approval_attempted", "approval_refused"]
    await handle.terminate()
