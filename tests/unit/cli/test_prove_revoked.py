"""`flotilla signers prove-revoked` believes what is signed, and nothing that a gateway makes up."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest

from flotilla.audit.export_format import (
    EXPORT_FORMAT,
    Anchor,
    AnyLine,
    End,
    Event,
    Header,
    Inclusion,
    Part,
    encode_export_line,
)
from flotilla.audit.notes import TreeHead, sign_tree_head
from flotilla.audit.proof import (
    NO_PREVIOUS_CHECKPOINT,
    Statement,
    genesis_hash,
    merkle_root,
    next_chain_hash,
    session_head_leaf,
)
from flotilla.audit.tree import leaf_hash
from flotilla.config.signing import Signer, create_key_pair, load_public_keys, load_signer
from flotilla.contracts.envelope import AgentEvent, encode_event
from flotilla.contracts.json_types import JsonObject
from flotilla.contracts.names import AUDIT_SESSION, log_origin
from flotilla.contracts.session_events import session_event_type
from flotilla.kafka.lanes import lane_of_session
from flotilla_cli.errors import CliError, Misuse
from flotilla_cli.gateway import GatewayClient
from flotilla_cli.revocations import ProofPolicy, prove_revocation, read_proof_policy
from tests.support.log_witness import LogWitness, cosignature

KEY = "SHA256:abc"


class Answers:
    """A gateway that answers with this export."""

    def __init__(self, *lines: AnyLine) -> None:
        self._lines = lines

    def me(self) -> dict[str, Any]:
        return {"tenant": "acme"}

    def download_chunks(self, _path: str, **_query: object) -> Iterator[bytes]:
        return (encode_export_line(line) for line in self._lines)


@pytest.fixture
def signer(tmp_path: Path) -> Signer:
    create_key_pair(tmp_path / "audit.pem", tmp_path / "audit.pub")
    return load_signer(tmp_path / "audit.pem")


def proven(tmp_path: Path, *lines: AnyLine) -> dict[str, Any]:
    return proven_to(read_proof_policy(tmp_path / "audit.pub", [], None, None), *lines)


def proven_to(policy: ProofPolicy, *lines: AnyLine) -> dict[str, Any]:
    return prove_revocation(cast("GatewayClient", Answers(*lines)), KEY, policy, wait_s=0)


def revocation(session_id: str) -> Event:
    data: JsonObject = {"change": "signer_revoked", "details": {"fingerprint": KEY}}
    return chained(session_id, 1, data, genesis_hash("acme", session_id))


def event_after(event: Event) -> Event:
    data: JsonObject = {"change": "api_key_created", "details": {}}
    return chained(event.session, event.seq + 1, data, bytes.fromhex(event.hash))


def chained(session_id: str, seq: int, data: JsonObject, before: bytes) -> Event:
    event = AgentEvent(
        type=session_event_type("state_change"),
        source="/gateway",
        subject=session_id,
        tenant="acme",
        sequence=seq,
        data=data,
    )
    body = encode_event(event)
    return Event(session=session_id, seq=seq, hash=next_chain_hash(before, body).hex(), body=body.decode())


def anchor_of(event: Event, signer: Signer) -> Anchor:
    leaf = session_head_leaf("acme", event.session, event.seq, bytes.fromhex(event.hash))
    statement = Statement(
        partition=0,
        number=1,
        previous=NO_PREVIOUS_CHECKPOINT,
        next_offset=1,
        heads=1,
        merkle_root=merkle_root([leaf]).hex(),
        created_at="2026-01-31T12:00:00Z",
    ).to_bytes()
    return Anchor(
        session=event.session,
        seq=event.seq,
        hash=event.hash,
        index=0,
        path=[],
        statement=statement.decode(),
        signature=signer.sign(statement),
        key_id=signer.key_id,
    )


def header_of(*parts: Part) -> Header:
    return Header(format=EXPORT_FORMAT, tenant="acme", session=AUDIT_SESSION, segments=list(parts))


def test_a_signed_revocation_is_proven(tmp_path: Path, signer: Signer) -> None:
    header = header_of(Part(session=AUDIT_SESSION, parent=None, after_seq=0, upto_seq=1, signed_seq=1))
    event = revocation(AUDIT_SESSION)
    end = End(events=1, witnesses=0, anchors=1, inclusions=0)
    found = proven(tmp_path, header, event, anchor_of(event, signer), end)
    assert (found["tenant"], found["revoked_by_event"], found["signed_to"]) == ("acme", 1, 1)


@pytest.mark.usefixtures("signer")
def test_a_revocation_that_nobody_signed_is_not(tmp_path: Path) -> None:
    header = header_of(Part(session=AUDIT_SESSION, parent=None, after_seq=0, upto_seq=1, signed_seq=1))
    with pytest.raises(CliError, match="not among the 0 events that are signed"):
        proven(tmp_path, header, revocation(AUDIT_SESSION), End(events=1, witnesses=0, anchors=0, inclusions=0))


@pytest.mark.usefixtures("signer")
def test_a_revocation_in_a_session_that_is_given_as_the_logs_parent_is_not(tmp_path: Path) -> None:
    parent = Part(session="invented", parent=None, after_seq=0, upto_seq=1, signed_seq=1)
    own = Part(session=AUDIT_SESSION, parent="invented", after_seq=1, upto_seq=1, signed_seq=1)
    with pytest.raises(CliError, match="has no parent"):
        proven(
            tmp_path,
            header_of(parent, own),
            revocation("invented"),
            End(events=1, witnesses=0, anchors=0, inclusions=0),
        )


ORIGIN = "flotilla.example.com/audit"


def included(anchor: Anchor, signer: Signer, *witnesses: LogWitness) -> Inclusion:
    """The anchor as the only entry of its tree, cosigned by these."""
    head = TreeHead(
        log_origin(ORIGIN, lane_of_session("acme", anchor.session)), 1, leaf_hash(bytes.fromhex(anchor.hash))
    )
    note = sign_tree_head(head, signer)
    note = replace(note, signatures=[*note.signatures, *(cosignature(witness, note) for witness in witnesses)])
    checkpoint = note.to_bytes().decode()
    return Inclusion(session=anchor.session, seq=anchor.seq, index=0, path=[], checkpoint=checkpoint)


def test_who_has_the_checkpoint_key_alone_proves_nothing_to_who_asks_for_witnesses(
    tmp_path: Path, signer: Signer
) -> None:
    public_key = tmp_path / "audit.pub"
    seen, another = (LogWitness(name, load_public_keys(public_key)) for name in ("w1.example", "w2.example"))
    header = header_of(Part(session=AUDIT_SESSION, parent=None, after_seq=0, upto_seq=1, signed_seq=1))
    event = revocation(AUDIT_SESSION)
    anchor, end = anchor_of(event, signer), End(events=1, witnesses=0, anchors=1, inclusions=1)
    policy = read_proof_policy(public_key, [seen.key.to_text()], None, ORIGIN)
    for cosigned in ([], [another]):
        with pytest.raises(CliError, match="in no tree that 1 of the given witnesses cosigned"):
            proven_to(policy, header, event, anchor, included(anchor, signer, *cosigned), end)
    assert proven_to(policy, header, event, anchor, included(anchor, signer, seen), end)["witnesses"] == 1


def test_an_event_after_what_witnesses_cosigned_takes_no_proof_away(tmp_path: Path, signer: Signer) -> None:
    seen = LogWitness("w.example", load_public_keys(tmp_path / "audit.pub"))
    policy = read_proof_policy(tmp_path / "audit.pub", [seen.key.to_text()], None, ORIGIN)
    header = header_of(Part(session=AUDIT_SESSION, parent=None, after_seq=0, upto_seq=2, signed_seq=2))
    event = revocation(AUDIT_SESSION)
    anchor, end = anchor_of(event, signer), End(events=2, witnesses=0, anchors=1, inclusions=1)
    found = proven_to(policy, header, event, anchor, included(anchor, signer, seen), event_after(event), end)
    assert (found["revoked_by_event"], found["signed_to"], found["witnesses"]) == (1, 1, 1)


@pytest.mark.usefixtures("signer")
@pytest.mark.parametrize(("needed", "origin"), [(None, None), (2, ORIGIN), (-1, ORIGIN)])
def test_witnesses_that_can_not_be_asked_for_are_misuse(tmp_path: Path, needed: int | None, origin: str | None) -> None:
    key = LogWitness("w.example", load_public_keys(tmp_path / "audit.pub")).key.to_text()
    with pytest.raises(Misuse):
        read_proof_policy(tmp_path / "audit.pub", [key], needed, origin)
