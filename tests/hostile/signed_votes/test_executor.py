"""At the executor: called as Temporal calls it, over rows and events that the attacker wrote."""

from dataclasses import replace

import pytest

from flotilla.approvals.events import vote_counted_events
from flotilla.outbox import append
from flotilla.postgres import tenant_transaction
from tests.hostile.signed_votes.hands import ARGS, FORGED_DECISION, HASH, TWO, Hands, attempt_of
from tests.support.waiting import eventually
from workflow_worker.activities.signatures.actions import ActionReference


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
    key = ActionReference(tenant_id="acme", action_id=state.action_id, session_id=state.action_id)
    async with tenant_transaction(hands.pool, "acme") as connection:
        attempt = replace(attempt_of(hands.signed(bob, handle)), approval_id=state.action_id)
        events = vote_counted_events(attempt, replace(hands._ballot(), approval_id=state.action_id))[:1]
        appended = await append(connection, "acme", state.action_id, events)
        statement = FORGED_DECISION.replace("'forged'", f"'{state.action_id}'")
        await connection.execute(statement, attempt.attempt_id, HASH, appended.first_seq)
    assert "0 hold" in await hands.execute(key=key)
    assert hands.ran == []
