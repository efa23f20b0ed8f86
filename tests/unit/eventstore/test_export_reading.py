"""An export that somebody changed is bad or unreadable, by line; it never passes, and never breaks the verifier."""

import json
from base64 import b64encode
from functools import cache
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from flotilla.eventstore.proof import NO_CHECKPOINT, Statement, head_leaf, merkle_root
from flotilla.eventstore.signing import PublicKeys, Signer
from flotilla.eventstore.verify_export import FORMATS, ExportVerdict, NotAnExport, verify_export
from tests.support.properties import patient
from tests.unit.eventstore.test_proof import chain_of

EVENTS = 3
ANYTHING = st.none() | st.booleans() | st.integers(-3, 3) | st.text(max_size=3) | st.lists(st.integers(), max_size=2)


@cache
def export() -> tuple[tuple[bytes, ...], PublicKeys]:
    """Three events of one session and a checkpoint that signs them, as `audit export` writes it."""
    signer = Signer(Ed25519PrivateKey.from_private_bytes(bytes(32)))
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
    documents: list[dict[str, Any]] = [
        {"kind": "header", "format": FORMATS[0], "tenant": "default", "session": "s1", "segments": [segment]},
        *(
            {"kind": "event", "session": "s1", "seq": one.seq, "hash": one.hash.hex(), "body": one.body.decode()}
            for one in chain
        ),
        {
            "kind": "anchor",
            "session": "s1",
            "seq": EVENTS,
            "hash": head.hex(),
            "index": 0,
            "path": [],
            "statement": statement.decode(),
            "signature": b64encode(signer.sign(statement)).decode(),
            "key_id": signer.key_id,
        },
        {"kind": "end", "events": EVENTS, "witnesses": 0, "anchors": 1},
    ]
    return tuple(json.dumps(document).encode() for document in documents), signer.public_keys()


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
    elif not found.problems and found.anchored_seq == EVENTS:
        assert said_in(lines) == said_in(list(export()[0]))


def said_in(lines: list[bytes]) -> list[Any]:
    """Whose history it is, and its events."""
    header, *others = (json.loads(line) for line in lines)
    events = [(one["session"], one["seq"], one["body"]) for one in others if one["kind"] == "event"]
    return [header["tenant"], header["session"], events]


def test_the_untouched_export_is_good() -> None:
    found = verdict_of(list(export()[0]))
    assert isinstance(found, ExportVerdict)
    assert (found.problems, found.anchored_seq) == ([], EVENTS)


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
