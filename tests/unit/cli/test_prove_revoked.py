"""`flotilla signers prove-revoked` believes what is signed, and nothing that a gateway makes up."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest

from flotilla.audit.export_format import FORMAT, Anchor, AnyLine, End, Event, Header, Part, write_line
from flotilla.audit.proof import NO_CHECKPOINT, Statement, genesis_hash, head_leaf, link, merkle_root
from flotilla.config.signing import Signer, create_key_pair, load_signer
from flotilla.contracts.envelope import AgentEvent, encode_event
from flotilla.contracts.names import AUDIT_SESSION
from flotilla.contracts.session_events import session_event_type
from flotilla_cli.errors import CliError
from flotilla_cli.gateway import GatewayClient
from flotilla_cli.revocations import prove_revocation

KEY = "SHA256:abc"


class Answers:
    """A gateway that answers with this export."""

    def __init__(self, *lines: AnyLine) -> None:
        self._lines = lines

    def me(self) -> dict[str, Any]:
        return {"tenant": "acme"}

    def download_chunks(self, _path: str, **_query: object) -> Iterator[bytes]:
        return (write_line(line) for line in self._lines)


@pytest.fixture
def signer(tmp_path: Path) -> Signer:
    create_key_pair(tmp_path / "audit.pem", tmp_path / "audit.pub")
    return load_signer(tmp_path / "audit.pem")


def proven(tmp_path: Path, *lines: AnyLine) -> dict[str, Any]:
    return prove_revocation(cast("GatewayClient", Answers(*lines)), KEY, tmp_path / "audit.pub", wait_s=0)


def revocation(session_id: str) -> Event:
    event = AgentEvent(
        type=session_event_type("state_change"),
        source="/gateway",
        subject=session_id,
        tenant="acme",
        sequence=1,
        data={"change": "signer_revoked", "details": {"fingerprint": KEY}},
    )
    body = encode_event(event)
    hash_ = link(genesis_hash("acme", session_id), body)
    return Event(session=session_id, seq=1, hash=hash_.hex(), body=body.decode())


def anchor_of(event: Event, signer: Signer) -> Anchor:
    leaf = head_leaf("acme", event.session, event.seq, bytes.fromhex(event.hash))
    statement = Statement(
        partition=0,
        number=1,
        previous=NO_CHECKPOINT,
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
    return Header(format=FORMAT, tenant="acme", session=AUDIT_SESSION, segments=list(parts))


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
