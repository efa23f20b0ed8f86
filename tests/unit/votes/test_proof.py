"""A signed vote proves one decision of one person about one content; whatever else is made of it proves nothing."""

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from flotilla.contracts.votes import Signature, Signed, SignedVote
from flotilla.votes.errors import Unproven
from flotilla.votes.proof import (
    ExpectedVote,
    check_vote_is_fresh,
    deduplicate_approvals,
    verify_key_possession,
    verify_vote,
)
from flotilla.votes.roots import VoteRoots
from tests.support.votes import (
    Ed25519Key,
    Key,
    Passkey,
    SshKey,
    Voter,
    approved,
    enrolled,
    now_text,
    roots_of,
)

BALLOT = ExpectedVote(
    tenant="acme",
    approval_id="a1",
    content_hash="0" * 64,
    policy_version="v1",
    requested_by="alice",
    on_behalf_of="",
    roles=["approver"],
)
KINDS: dict[str, Callable[[], Key]] = {
    "ed25519": Ed25519Key,
    "ssh ed25519": SshKey,
    "ssh ecdsa": SshKey.ecdsa,
    "passkey": Passkey,
}


@pytest.fixture
def root() -> Ed25519Key:
    return Ed25519Key()


@pytest.fixture
def roots(root: Ed25519Key) -> VoteRoots:
    return roots_of(("grace", root))


def proven(vote: SignedVote, roots: VoteRoots, **changes: Any) -> str:
    return verify_vote(vote, replace(BALLOT, **changes), roots, datetime.now(UTC)).subject


def refused(vote: SignedVote, roots: VoteRoots, reason: str | None = None, **changes: Any) -> None:
    with pytest.raises(Unproven, match=reason):
        proven(vote, roots, **changes)


@pytest.mark.parametrize("kind", KINDS)
def test_a_vote_of_each_kind_of_key_holds(kind: str, root: Ed25519Key, roots: VoteRoots) -> None:
    bob = Voter.made("bob", root, KINDS[kind]())
    assert proven(bob.vote(), roots) == "bob"


@pytest.mark.parametrize("kind", KINDS)
def test_an_administrator_approves_with_each_kind_of_key(kind: str) -> None:
    root = KINDS[kind]()
    assert proven(Voter.made("bob", root).vote(), roots_of(("grace", root))) == "bob"


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("tenant", "globex"),
        ("approval_id", "a2"),
        ("content_hash", "1" * 64),
        ("policy_version", "v0"),
        ("requested_by", "mallory"),
        ("on_behalf_of", "carol"),
    ],
)
@pytest.mark.parametrize("kind", ["ed25519", "passkey"])
def test_a_vote_is_no_vote_about_anything_else(
    *, kind: str, field: str, value: str, root: Ed25519Key, roots: VoteRoots
) -> None:
    vote = Voter.made("bob", root, KINDS[kind]()).vote()
    refused(vote, roots, f"signed for {field}", **{field: value})
    # Nor can its text be changed to fit.
    forged = vote.vote.statement.replace(str(getattr(BALLOT, field)) or '"on_behalf_of":""', value, 1)
    refused(replace(vote, vote=replace(vote.vote, statement=forged)), roots, **{field: value})


def test_a_rejection_is_no_approval_and_an_old_vote_is_not_made_again(root: Ed25519Key, roots: VoteRoots) -> None:
    bob, now = Voter.made("bob", root), datetime.now(UTC)
    rejected = verify_vote(bob.vote(decision="reject"), BALLOT, roots, now)
    assert deduplicate_approvals([rejected]) == []
    with pytest.raises(Unproven, match="signed to reject"):
        check_vote_is_fresh(rejected, "approve", now)
    bob = Voter.made("bob", root, time=now_text(days=-2))
    earlier = verify_vote(bob.vote(time=now_text(hours=-1)), BALLOT, roots, now)
    with pytest.raises(Unproven, match="sign it again"):
        check_vote_is_fresh(earlier, "approve", now)


def test_one_person_with_two_keys_and_one_key_under_two_names_are_one(root: Ed25519Key, roots: VoteRoots) -> None:
    key, now = Ed25519Key(), datetime.now(UTC)
    voters = [Voter.made("bob", root, key), Voter.made("bob", root), Voter.made("carol", root, key)]
    votes = [verify_vote(voter.vote(), BALLOT, roots, now) for voter in voters]
    assert [vote.subject for vote in deduplicate_approvals(votes)] == ["bob"]
    dave = verify_vote(Voter.made("dave", root).vote(), BALLOT, roots, now)
    assert [vote.subject for vote in deduplicate_approvals([*votes, dave])] == ["bob", "dave"]


def test_nobody_signs_for_another_person(root: Ed25519Key, roots: VoteRoots) -> None:
    bob, mallory = Voter.made("bob", root), Voter.made("mallory", root)
    refused(replace(mallory.vote(), vote=bob.vote().vote), roots, "signature does not hold")
    refused(replace(mallory, subject="bob").vote(), roots, "mallory's, not bob's")


def test_those_who_asked_do_not_vote_and_those_without_the_role_neither(root: Ed25519Key, roots: VoteRoots) -> None:
    bob = Voter.made("bob", root)
    refused(bob.vote(requested_by="bob"), roots, "asked for this", requested_by="bob")
    refused(bob.vote(on_behalf_of="bob"), roots, "asked for this", on_behalf_of="bob")
    assert proven(bob.vote(requested_by="bob"), roots, requested_by="bob", exclude_requester=False) == "bob"
    refused(bob.vote(), roots, "any of the roles owner", roles=["owner"])


def test_a_key_counts_only_with_the_approval_of_a_root(root: Ed25519Key, roots: VoteRoots) -> None:
    key, other = Ed25519Key(), Ed25519Key()
    signer = enrolled(key, "bob")
    bob = Voter("bob", key, signer, approved(signer, "bob", root))
    assert proven(bob.vote(), roots) == "bob"
    refused(bob.vote(), VoteRoots(), "not among the vote roots")
    refused(bob.vote(), roots_of(("grace", root), tenant="globex"), "not among the vote roots")
    refused(bob.vote(), roots_of(("grace", other)), "not signed by grace")
    refused(bob.vote(), roots_of(("grace", root), revoked=(bob.fingerprint,)), "revoked by the file")
    for approval, reason in (
        (approved(signer, "bob", other), "not signed by grace"),
        (approved(signer, "bob", key), "not signed by grace"),
        (approved(signer, "bob", root, by="mallory"), "not among the vote roots"),
        (approved(signer, "carol", root), "somebody else"),
        (approved(signer, "bob", root, tenant="globex"), "somebody else"),
        (approved(enrolled(other, "bob"), "bob", root), "another key"),
        (approved(signer, "bob", root, expires_at=now_text(days=-1), time=now_text(days=-2)), "ended at"),
        (approved(signer, "bob", root, expires_at=now_text(days=500)), "at most 400 days"),
        (approved(signer, "bob", root, time=now_text(hours=1)), "future"),
    ):
        refused(replace(bob, approval=approval).vote(), roots, reason)


def test_nobody_approves_a_key_of_their_own(root: Ed25519Key) -> None:
    grace = Voter.made("grace", root)
    refused(grace.vote(), roots_of(("grace", root)), "key of their own")
    # Nor with the root itself under another name.
    sock = Voter.made("sock", root, root)
    refused(sock.vote(), roots_of(("grace", root)), "not among the vote roots")


def test_a_key_is_its_holders(root: Ed25519Key, roots: VoteRoots) -> None:
    victim, key = Ed25519Key(), Ed25519Key()
    taken = key.sign(enrolled(victim, "mallory").statement)
    with pytest.raises(Unproven, match="does not hold"):
        verify_key_possession(taken, roots)
    vote = replace(Voter.made("mallory", root).vote(), signer=taken, approval=approved(taken, "mallory", root))
    refused(vote, roots, "signature does not hold")


def test_a_vote_from_before_its_key_or_from_the_future_does_not_count(root: Ed25519Key, roots: VoteRoots) -> None:
    bob = Voter.made("bob", root)
    refused(bob.vote(time=now_text(hours=-1)), roots, "before its key")
    refused(bob.vote(time=now_text(hours=1)), roots, "future")
    refused(bob.vote(time="2030-02-31T00:00:00Z"), roots, "not a time")


@pytest.mark.parametrize(
    "change",
    [
        lambda text: text.replace(":", ": ", 1),
        lambda text: text[:-1] + ',"note":"x"}',
        lambda text: text[:-1] + ',"decision":"approve"}',
        lambda text: "{" + text[1:].replace('"type":"flotilla.vote.v1",', ""),
        lambda text: text.replace("flotilla.vote.v1", "flotilla.signer.v1"),
        lambda text: text.replace('"approve"', '"edit"'),
        lambda text: text.replace("approve", "\\u0061pprove"),
        lambda text: f"[{text}]",
        lambda _: "[" * 4000,
        lambda _: "{}",
    ],
)
def test_a_statement_has_one_spelling(change: Callable[[str], str], root: Ed25519Key, roots: VoteRoots) -> None:
    bob = Voter.made("bob", root)
    signed = bob.key.sign(change(bob.vote().vote.statement))
    refused(replace(bob.vote(), vote=signed), roots)


def test_a_signature_of_one_kind_is_none_of_another(root: Ed25519Key, roots: VoteRoots) -> None:
    key = SshKey()
    bob = Voter.made("bob", root, key)
    statement = bob.vote().vote.statement
    refused(replace(bob.vote(), vote=key.sign(statement, namespace="git")), roots, "namespace")
    for value in ("", "AAAA", "-----BEGIN SSH SIGNATURE-----\nAAAA\n-----END SSH SIGNATURE-----"):
        refused(replace(bob.vote(), vote=Signed(statement=statement, signature=Signature(value=value))), roots)
    extra = replace(bob.vote().vote.signature, client_data="AAAA")
    refused(replace(bob.vote(), vote=Signed(statement=statement, signature=extra)), roots, "value alone")


def test_a_passkey_signs_for_its_own_site_and_person_only(root: Ed25519Key, roots: VoteRoots) -> None:
    bob = Voter.made("bob", root, Passkey())
    key, statement = bob.key, bob.vote().vote.statement
    assert isinstance(key, Passkey)
    for changed, reason in (
        (replace(key, origin="https://evil.example"), "origin"),
        (replace(key, origin="http://flotilla.example.com"), "origin"),
        (replace(key, rp_id="evil.example"), "RP ID"),
        (replace(key, verifies_user=False), "not verified"),
    ):
        refused(replace(bob.vote(), vote=changed.sign(statement)), roots, reason)
    refused(replace(bob.vote(), vote=key.sign(statement, type="webauthn.create")), roots, "type")
    refused(replace(bob.vote(), vote=key.sign(statement, crossOrigin=True)), roots, "frame")
    refused(bob.vote(), replace(roots, passkeys=None), "no passkey counts")
    signature = bob.vote().vote.signature
    for part in ("value", "client_data", "authenticator_data"):
        for broken in ("", "AAAA", "é", "[" * 4000, getattr(signature, part)[:-4]):
            forged = Signed(statement=statement, signature=replace(signature, **{part: broken}))
            refused(replace(bob.vote(), vote=forged), roots)
