"""Keys that were revoked, and a database that takes the revocation back."""

from dataclasses import replace

import pytest

from flotilla.config.signing import signer_with_new_key
from flotilla.postgres import tenant_transaction
from flotilla.votes.receipts import issue_receipt
from flotilla.votes.roots import VoteRoots
from tests.hostile.signed_votes.hands import TWO, Hands
from tests.support.tickets import SIGNER
from tests.support.votes import (
    note_signers,
    roots_of,
)


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
        issue_receipt(signer_with_new_key(), "acme", "forged", after.vote, 1),
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
