"""An export that somebody changed is bad or unreadable, by line; it never passes, and never breaks the verifier."""

import json
from base64 import b64encode
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given
from hypothesis import strategies as st

from flotilla.contracts.envelope import AgentEvent, encode_event
from flotilla.eventstore.chain_check import Linked
from flotilla.eventstore.proof import NO_CHECKPOINT, Statement, head_leaf, link, merkle_root
from flotilla.eventstore.signing import PublicKeys, Signer
from flotilla.eventstore.verify_export import EXIT_BAD, FORMATS, ExportVerdict, NotAnExport, main, verify_export
from tests.support.properties import patient
from tests.unit.eventstore.test_proof import chain_of

EVENTS = 3
PRIVATE = Ed25519PrivateKey.from_private_bytes(bytes(32))
ANYTHING = st.none() | st.booleans() | st.integers(-3, 3) | st.text(max_size=3) | st.lists(st.integers(), max_size=2)


@cache
def export() -> tuple[tuple[bytes, ...], PublicKeys]:
    """Three events of one session and a checkpoint that signs them, as `audit export` writes it."""
    signer = Signer(PRIVATE)
    chain = chain_of(["a", "b", "c"])
    head = chain[-1].hash
    statement = Statement(
        partition=0,
        number=1,
        previous=NO_CHECKPOINT,
        next_offset=EVENTS,
        heads=1,
        merkle_root=merkle_root([head_leaf("default", "s1", EVENTS, head)]).hex(),
        created_at="2026-01-31T12:00:00Z",
    ).to_bytes()
    segment = {"session": "s1", "parent": None, "after_seq": 0, "upto_seq": EVENTS, "signed_seq": EVENTS}
    header = {"kind": "header", "format": FORMATS[0], "tenant": "default", "session": "s1", "segments": [segment]}
    anchor = {
        "kind": "anchor",
        "session": "s1",
        "seq": EVENTS,
        "hash": head.hex(),
        "index": 0,
        "path": [],
        "statement": statement.decode(),
        "signature": b64encode(signer.sign(statement)).decode(),
        "key_id": signer.key_id,
    }
    events = [event_line(one) for one in chain]
    lines = [json.dumps(header).encode(), *events, json.dumps(anchor).encode(), end_line(EVENTS, 1)]
    return tuple(lines), signer.public_keys()


def event_line(event: Linked) -> bytes:
    body, digest = event.body.decode(), event.hash.hex()
    return json.dumps({"kind": "event", "session": "s1", "seq": event.seq, "hash": digest, "body": body}).encode()


def end_line(events: int, anchors: int) -> bytes:
    return json.dumps({"kind": "end", "events": events, "witnesses": 0, "anchors": anchors}).encode()


def verdict_of(lines: list[bytes]) -> ExportVerdict | NotAnExport:
    try:
        return verify_export(lines, export()[1])
    except NotAnExport as error:
        return error


def check(lines: list[bytes]) -> None:
    """What passes says what was exported: another spelling of it (hex digits in capitals) may."""
    found = verdict_of(lines)
    if isinstance(found, NotAnExport):
        assert "line" in str(found)
    elif not found.problems and not found.unsigned:
        assert said_in(lines) == said_in(list(export()[0]))


def said_in(lines: list[bytes]) -> list[Any]:
    """Whose history it is, and its events."""
    header, *others = (json.loads(line) for line in lines)
    events = [(one["session"], one["seq"], one["body"]) for one in others if one["kind"] == "event"]
    return [header["tenant"], header["session"], events]


def test_the_untouched_export_is_good() -> None:
    found = verdict_of(list(export()[0]))
    assert isinstance(found, ExportVerdict)
    assert (found.problems, found.unsigned, found.anchored_seq) == ([], [], EVENTS)


@patient
@given(st.data())
def test_an_export_with_another_value_does_not_pass(data: st.DataObject) -> None:
    lines = list(export()[0])
    at = data.draw(st.integers(0, len(lines) - 1))
    document = json.loads(lines[at])
    field = data.draw(st.sampled_from(sorted(document)))
    del document[field]
    if data.draw(st.booleans()):
        document[field] = data.draw(ANYTHING)
    lines[at] = json.dumps(document).encode()
    check(lines)


@patient
@given(st.data())
def test_an_export_with_another_bit_does_not_pass(data: st.DataObject) -> None:
    lines = list(export()[0])
    at = data.draw(st.integers(0, len(lines) - 1))
    place = data.draw(st.integers(0, len(lines[at]) - 1))
    changed = bytearray(lines[at])
    changed[place] ^= 1 << data.draw(st.integers(0, 7))
    lines[at] = bytes(changed)
    check(lines)


def test_what_a_line_lacks_is_named() -> None:
    lines = [line.replace(b'"statement"', b'"statemenT"') for line in export()[0]]
    with pytest.raises(NotAnExport, match="line 5 has no 'statement': it was changed"):
        verify_export(lines, export()[1])


def test_a_history_under_another_sessions_name_is_bad() -> None:
    header, *others = export()[0]
    document = {**json.loads(header), "session": "s2"}
    (problem,) = verify_export([json.dumps(document).encode(), *others], export()[1]).problems
    assert (problem.kind, problem.detail) == ("lineage", "it is given as session s2, and holds the history of s1")


def made_up() -> list[bytes]:
    """Another history under the session's name, without a checkpoint."""
    header, *_ = export()[0]
    return [header, *(event_line(one) for one in chain_of(["x", "y", "z"])), end_line(EVENTS, 0)]


def continued() -> list[bytes]:
    """The session's history and its checkpoint, and one more event by somebody who has no key."""
    header, *events, anchor, _ = export()[0]
    document = json.loads(header)
    document["segments"][0] |= {"upto_seq": EVENTS + 1, "signed_seq": EVENTS + 1}
    said = {"content": "bob approves"}
    event = AgentEvent(type="t", source="/t", subject="s1", tenant="default", sequence=EVENTS + 1, data=said)
    body = encode_event(event)
    forged = Linked(EVENTS + 1, link(bytes.fromhex(json.loads(events[-1])["hash"]), body), body)
    return [json.dumps(document).encode(), *events, event_line(forged), anchor, end_line(EVENTS + 1, 1)]


@pytest.mark.parametrize(("forge", "unsigned"), [(made_up, "events 1 to 3"), (continued, "events 4 to 4")])
def test_what_nobody_signed_does_not_pass(
    forge: Callable[[], list[bytes]], unsigned: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, key = tmp_path / "forged.jsonl", tmp_path / "audit.pub"
    file.write_bytes(b"\n".join(forge()))
    key.write_bytes(PRIVATE.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    assert main([str(file), "--public-key", str(key)]) == EXIT_BAD
    said = capsys.readouterr().out
    assert f"UNSIGNED {unsigned} are chained, but no checkpoint" in said
    assert "UNSIGNED session s1" in said
    assert "GOOD" not in said
