"""Through Temporal: the Update `decide`, with any subject and any proof."""

from collections.abc import Callable
from dataclasses import replace

import pytest

from tests.hostile.signed_votes.hands import Hands
from tests.support.votes import (
    Ed25519Key,
    Key,
    Passkey,
    SshKey,
    Voter,
    approved,
    enrolled,
    now_text,
)


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
