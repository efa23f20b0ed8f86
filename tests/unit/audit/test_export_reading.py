"""An export that somebody changed is bad or unreadable, by line; it never passes, and never breaks the verifier."""

import json
from collections.abc import Callable
from functools import cache
from pathlib import Path

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given
from hypothesis import strategies as st

from flotilla.audit.chain import ChainedEvent
from flotilla.audit.export_format import (
    EXPORT_FORMAT,
    Anchor,
    End,
    Event,
    Header,
    Part,
    decode_export_line,
    encode_export_line,
)
from flotilla.audit.export_lines import NotAnExport
from flotilla.audit.export_trees import WitnessPolicy
from flotilla.audit.notes import LOG_KEY, WITNESS_KEY, NoteKey
from flotilla.audit.proof import (
    NO_PREVIOUS_CHECKPOINT,
    Statement,
    merkle_root,
    next_chain_hash,
    session_head_leaf,
)
from flotilla.audit.verify_export import EXIT_BAD, EXIT_GOOD, EXIT_MISUSE, ExportVerdict, main, verify_export
from flotilla.config.signing import PublicKeys, Signer
from flotilla.contracts.envelope import AgentEvent, encode_event
from flotilla.contracts.errors import ConfigurationError
from tests.support.properties import patient
from tests.unit.audit.test_proof import chain_of

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
        previous=NO_PREVIOUS_CHECKPOINT,
        next_offset=EVENTS,
        heads=1,
        merkle_root=merkle_root([session_head_leaf("default", "s1", EVENTS, head)]).hex(),
        created_at="2026-01-31T12:00:00Z",
    ).to_bytes()
    part = Part(session="s1", parent=None, after_seq=0, upto_seq=EVENTS, signed_seq=EVENTS)
    header = Header(format=EXPORT_FORMAT, tenant="default", session="s1", segments=[part])
    anchor = Anchor(
        session="s1",
        seq=EVENTS,
        hash=head.hex(),
        index=0,
        path=[],
        statement=statement.decode(),
        signature=signer.sign(statement),
        key_id=signer.key_id,
    )
    events = [event_line(one) for one in chain]
    return (encode_export_line(header), *events, encode_export_line(anchor), end_line(EVENTS, 1)), signer.public_keys()


def event_line(event: ChainedEvent) -> bytes:
    return encode_export_line(Event(session="s1", seq=event.seq, hash=event.hash.hex(), body=event.body.decode()))


def end_line(events: int, anchors: int) -> bytes:
    return encode_export_line(End(events=events, witnesses=0, anchors=anchors, inclusions=0))


def verdict_of(lines: list[bytes]) -> ExportVerdict | NotAnExport:
    try:
        return verify_export(lines, export()[1])
    except NotAnExport as error:
        return error


def check(lines: list[bytes]) -> None:
    """Only what was exported passes, and what does not is named by its line."""
    found = verdict_of(lines)
    if isinstance(found, NotAnExport):
        assert "line" in str(found)
    elif found.word == "GOOD":
        assert lines == list(export()[0])
    else:
        assert found.unsigned or "line " in found.problems[0].detail


def test_the_untouched_export_is_good() -> None:
    found = verdict_of(list(export()[0]))
    assert isinstance(found, ExportVerdict)
    assert (found.word, found.problems, found.unsigned, found.anchored_seq) == ("GOOD", [], [], EVENTS)


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
    lines[at] = msgspec.json.encode(document) + b"\n"
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


def problem_of(lines: list[bytes]) -> tuple[str, str]:
    (problem,) = verify_export(lines, export()[1]).problems
    return problem.kind, problem.detail


def test_what_a_line_lacks_is_named() -> None:
    lines = [line.replace(b'"statement"', b'"statemenT"') for line in export()[0]]
    assert problem_of(lines) == ("edited", "line 5: Object contains unknown field `statemenT`")


def test_a_history_under_another_sessions_name_is_bad() -> None:
    header, *others = export()[0]
    document = msgspec.json.encode({**json.loads(header), "session": "s2"}) + b"\n"
    detail = "line 1: it is given as session s2, and holds the history of s1"
    assert problem_of([document, *others]) == ("lineage", detail)


def test_an_export_of_an_older_format_is_bad() -> None:
    """It holds claims that nothing proves."""
    header, *others = export()[0]
    kind, detail = problem_of([header.replace(b"export/4", b"export/2"), *others])
    assert (kind, detail) == ("edited", "line 1: Invalid enum value 'flotilla-audit-export/2' - at `$.format`")


def test_an_export_of_the_former_format_stays_good_but_proves_no_tree() -> None:
    lines, keys = export()
    former = [lines[0].replace(b"export/4", b"export/3"), *lines[1:-1], lines[-1].replace(b',"inclusions":0', b"")]
    assert verify_export(former, keys).word == "GOOD"
    assert verify_export([*former[:-1], lines[-1]], keys).word == "BAD"
    witness = NoteKey("w.example.org", WITNESS_KEY, Signer(PRIVATE).public_key)
    found = verify_export(former, keys, policy=WitnessPolicy([witness], 1, "flotilla.example.com/audit"))
    assert (found.word, len(found.unsigned)) == ("UNSIGNED", 1)


@pytest.mark.parametrize(
    "policy",
    [
        WitnessPolicy([], 1, "x/audit"),
        WitnessPolicy([], -1, "x/audit"),
        WitnessPolicy([NoteKey("w", WITNESS_KEY, Signer(PRIVATE).public_key)] * 2, 2, "x/audit"),
        WitnessPolicy([NoteKey("w", WITNESS_KEY, Signer(PRIVATE).public_key)], 1, None),
        WitnessPolicy([NoteKey("w", LOG_KEY, Signer(PRIVATE).public_key)], 1, "x/audit"),
    ],
)
def test_witnesses_that_can_not_be_had_are_misuse(policy: WitnessPolicy) -> None:
    with pytest.raises(ConfigurationError):
        verify_export(*export(), policy=policy)


def test_witnesses_that_are_named_are_asked_for(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Not to name how many would otherwise check nothing, and say `GOOD`."""
    file = tmp_path / "s1.jsonl"
    file.write_bytes(b"".join(export()[0]))
    witness = NoteKey("w", WITNESS_KEY, Signer(PRIVATE).public_key).to_text()
    command = [str(file), "--public-key", str(public_key(tmp_path)), "--witness", witness, "--origin", "x/audit"]
    assert main(command) == EXIT_BAD
    assert "is in no tree that 1 of the given witnesses cosigned" in capsys.readouterr().out
    assert main([*command, "--witnesses", "0"]) == EXIT_GOOD
    assert main([*command, "--witnesses", "-1"]) == EXIT_MISUSE


def test_a_file_that_is_no_export_is_misuse(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file, key = tmp_path / "letter.txt", public_key(tmp_path)
    for content in (b"", b"Dear Sir\n", b'{"kind":"nonsense"}', b"\xff" * 99, b"[" * 100_000):
        file.write_bytes(content)
        assert main([str(file), "--public-key", str(key)]) in {EXIT_MISUSE, EXIT_BAD}
    assert main([str(tmp_path), "--public-key", str(key)]) == EXIT_MISUSE
    assert main([str(file), "--public-key", str(file)]) == EXIT_MISUSE
    assert "GOOD" not in capsys.readouterr().out


def public_key(folder: Path) -> Path:
    key = folder / "audit.pub"
    key.write_bytes(PRIVATE.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    return key


def made_up() -> list[bytes]:
    """Another history under the session's name, without a checkpoint."""
    header, *_ = export()[0]
    return [header, *(event_line(one) for one in chain_of(["x", "y", "z"])), end_line(EVENTS, 0)]


def continued() -> list[bytes]:
    """The session's history and its checkpoint, and one more event by somebody who has no key."""
    first, *events, anchor, _ = export()[0]
    header, last = decode_export_line(first), decode_export_line(events[-1])
    assert isinstance(header, Header)
    assert isinstance(last, Event)
    part = msgspec.structs.replace(header.segments[0], upto_seq=EVENTS + 1, signed_seq=EVENTS + 1)
    said = {"content": "bob approves"}
    event = AgentEvent(type="t", source="/t", subject="s1", tenant="default", sequence=EVENTS + 1, data=said)
    body = encode_event(event)
    forged = ChainedEvent(EVENTS + 1, next_chain_hash(bytes.fromhex(last.hash), body), body)
    longer = encode_export_line(msgspec.structs.replace(header, segments=[part]))
    return [longer, *events, anchor, event_line(forged), end_line(EVENTS + 1, 1)]


@pytest.mark.parametrize(("forge", "unsigned"), [(made_up, "events 1 to 3"), (continued, "events 4 to 4")])
def test_what_nobody_signed_does_not_pass(
    forge: Callable[[], list[bytes]], unsigned: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "forged.jsonl"
    file.write_bytes(b"".join(forge()))
    assert main([str(file), "--public-key", str(public_key(tmp_path))]) == EXIT_BAD
    said = capsys.readouterr().out
    assert f"UNSIGNED {unsigned} are chained, but no checkpoint" in said
    assert "UNSIGNED session s1" in said
    assert "GOOD" not in said
