"""Who holds an export changes one byte of it, or all but the signatures: it is never GOOD again."""

import time
import tracemalloc
from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path
from random import Random

import msgspec
import pytest

from flotilla.audit.export_format import (
    MAX_LINE_BYTES,
    Anchor,
    AnyLine,
    End,
    Event,
    Header,
    Inclusion,
    decode_export_line,
    encode_export_line,
)
from flotilla.audit.export_lines import NotAnExport, read_export_lines
from flotilla.audit.proof import (
    NO_PREVIOUS_CHECKPOINT,
    Statement,
    genesis_hash,
    next_chain_hash,
    session_head_leaf,
)
from flotilla.audit.verify_export import main, verify_export
from flotilla.config.signing import PublicKeys, create_key_pair, load_public_keys, load_signer
from flotilla.contracts.envelope import encode_event
from flotilla.postgres import Pool
from tests.support.audit import event_at
from tests.support.damage import damage
from tests.support.exports import TENANT, Recorder, recorded, said
from tests.support.postgres import Database
from tests.support.properties import FULL

CHANGES = 100_000 if FULL else 5_000
SEED = 20_240_229
SESSIONS = ("plain", "rolled", "governed", "fork", "below", "twice", "blank")


@pytest.fixture
async def recorder(pool: Pool, audit_pool: Pool, database: Database, tmp_path: Path) -> Recorder:
    made = Recorder(pool, audit_pool, database, tmp_path)
    await recorded(made)
    return made


def word_of(data: "bytes | Endless", keys: PublicKeys) -> str:
    file = BytesIO(data) if isinstance(data, bytes) else data
    try:
        return verify_export(read_export_lines(file), keys).word
    except NotAnExport:
        return "NOT AN EXPORT"


def parsed(data: bytes) -> list[AnyLine]:
    return [decode_export_line(raw) for raw in data.splitlines(keepends=True)]


def written(lines: list[AnyLine]) -> bytes:
    return b"".join(encode_export_line(line) for line in lines)


async def test_every_untouched_export_is_good(recorder: Recorder) -> None:
    for session in SESSIONS:
        verdict = verify_export(read_export_lines(BytesIO(await recorder.export(session))), recorder.keys())
        assert (verdict.word, verdict.problems, verdict.unsigned) == ("GOOD", [], []), session


async def test_no_single_change_to_an_export_is_good(recorder: Recorder) -> None:
    originals = [await recorder.export(session) for session in SESSIONS]
    keys, random = recorder.keys(), Random(SEED)  # noqa: S311 - nothing here is secret
    for number in range(CHANGES):
        original = originals[number % len(originals)]
        changed = damage(original, random)
        assert word_of(changed, keys) != "GOOD", (
            f"change {number} of seed {SEED}: {first_difference(original, changed)}"
        )


def first_difference(one: bytes, other: bytes) -> str:
    at = next((at for at, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))
    return f"{one[max(0, at - 40) : at + 40]!r} became {other[max(0, at - 40) : at + 40]!r}"


def chained(lines: list[AnyLine], count: int) -> list[AnyLine]:
    """More events behind the session's last, with hashes that follow and a header and end that agree."""
    header, end = lines[0], lines[-1]
    assert isinstance(header, Header)
    assert isinstance(end, End)
    own = header.segments[-1]
    last = [line for line in lines if type(line) is Event][-1]
    extra: list[AnyLine] = []
    chain = bytes.fromhex(last.hash)
    for seq in range(own.upto_seq + 1, own.upto_seq + 1 + count):
        body = encode_event(event_at(own.session, seq, "bob approves"))
        chain = next_chain_hash(chain, body)
        extra.append(Event(session=own.session, seq=seq, hash=chain.hex(), body=body.decode()))
    upto = own.upto_seq + count
    own = msgspec.structs.replace(own, upto_seq=upto, signed_seq=upto)
    header = msgspec.structs.replace(header, segments=[*header.segments[:-1], own])
    return [header, *lines[1:-1], *extra, msgspec.structs.replace(end, events=end.events + count)]


def two_events_more(data: bytes) -> bytes:
    return written(chained(parsed(data), 2))


def two_events_more_before_the_anchor(data: bytes) -> bytes:
    """The genuine anchor moved behind the invented events."""
    lines = chained(parsed(data), 2)
    anchor = next(line for line in reversed(lines) if isinstance(line, Anchor))
    proof = next(line for line in reversed(lines) if isinstance(line, Inclusion))
    lines = [line for line in lines if line not in (anchor, proof)]
    return written([*lines[:-1], anchor, proof, lines[-1]])


def two_events_more_under_the_anchors_name(data: bytes) -> bytes:
    """The genuine anchor claims to be of the last invented event."""
    lines = chained(parsed(data), 2)
    anchor = next(line for line in reversed(lines) if isinstance(line, Anchor))
    proof = next(line for line in reversed(lines) if isinstance(line, Inclusion))
    lines = [line for line in lines if line not in (anchor, proof)]
    last = lines[-2]
    assert isinstance(last, Event)
    moved: list[AnyLine] = [
        msgspec.structs.replace(anchor, seq=last.seq, hash=last.hash),
        msgspec.structs.replace(proof, seq=last.seq),
    ]
    return written([*lines[:-1], *moved, lines[-1]])


def nothing_signed(data: bytes) -> bytes:
    """The header says `upto_seq: 0`, and there is nothing else."""
    header = parsed(data)[0]
    assert isinstance(header, Header)
    own = msgspec.structs.replace(header.segments[-1], parent=None, after_seq=0, upto_seq=0, signed_seq=0)
    return written(
        [msgspec.structs.replace(header, segments=[own]), End(events=0, witnesses=0, anchors=0, inclusions=0)]
    )


def nothing_signed_but_events(data: bytes) -> bytes:
    """The header says `upto_seq: 0`, and events follow all the same."""
    empty = parsed(nothing_signed(data))
    header = empty[0]
    assert isinstance(header, Header)
    body = encode_event(event_at(header.session, 1, "bob approves"))
    digest = next_chain_hash(genesis_hash(header.tenant, header.session), body).hex()
    event = Event(session=header.session, seq=1, hash=digest, body=body.decode())
    return written([header, event, End(events=1, witnesses=0, anchors=0, inclusions=0)])


def cut_back(data: bytes) -> bytes:
    """The last event never happened."""
    lines = parsed(data)
    header, end = lines[0], lines[-1]
    assert isinstance(header, Header)
    assert isinstance(end, End)
    own = header.segments[-1]
    own = msgspec.structs.replace(own, upto_seq=own.upto_seq - 1, signed_seq=own.upto_seq - 1)
    header = msgspec.structs.replace(header, segments=[*header.segments[:-1], own])
    kept = [
        line
        for line in lines[1:-1]
        if not (isinstance(line, Anchor | Event | Inclusion) and line.session == own.session)
    ]
    mine = [line for line in lines if type(line) is Event and line.session == own.session][:-1]
    counts = {"anchors": Anchor, "inclusions": Inclusion}
    changed = {name: sum(isinstance(line, kind) for line in kept) for name, kind in counts.items()}
    return written([header, *kept, *mine, msgspec.structs.replace(end, events=end.events - 1, **changed)])


def header_twice(data: bytes) -> bytes:
    header, rest = data.split(b"\n", 1)
    return header + b"\n" + header + b"\n" + rest


def last_line_twice(data: bytes) -> bytes:
    return data + data.splitlines(keepends=True)[-1]


def whole_file_twice(data: bytes) -> bytes:
    return data + data


def unknown_kind(data: bytes) -> bytes:
    *lines, end = data.splitlines(keepends=True)
    return b"".join([*lines, b'{"kind":"note","text":"bob approves"}\n', end])


def unknown_session(data: bytes) -> bytes:
    *lines, end = data.splitlines(keepends=True)
    event = next(line for line in parsed(data) if isinstance(line, Event))
    return b"".join([*lines, encode_export_line(msgspec.structs.replace(event, session="elsewhere")), end])


def anchor_twice(data: bytes) -> bytes:
    """The last anchor again, and counted."""
    *lines, end = parsed(data)
    assert isinstance(end, End)
    anchor = next(line for line in reversed(lines) if isinstance(line, Anchor))
    return written([*lines, anchor, msgspec.structs.replace(end, anchors=end.anchors + 1)])


def inclusion_twice(data: bytes) -> bytes:
    """The last inclusion again, and counted."""
    *lines, end = parsed(data)
    assert isinstance(end, End)
    proof = next(line for line in reversed(lines) if isinstance(line, Inclusion))
    inclusions = sum(isinstance(line, Inclusion) for line in lines) + 1
    return written([*lines, proof, msgspec.structs.replace(end, inclusions=inclusions)])


def inclusion_of_another_entry(data: bytes) -> bytes:
    """Each inclusion claims the next place in its tree."""
    lines = parsed(data)
    return written(
        [msgspec.structs.replace(line, index=line.index + 1) if isinstance(line, Inclusion) else line for line in lines]
    )


def former_format(data: bytes) -> bytes:
    """The format that had no inclusions, so that none are asked for."""
    return data.replace(b"flotilla-audit-export/4", b"flotilla-audit-export/3", 1)


def another_tenant(data: bytes) -> bytes:
    header, *rest = parsed(data)
    return written([msgspec.structs.replace(header, tenant="acme"), *rest])


def old_format(data: bytes) -> bytes:
    return data.replace(b"flotilla-audit-export/4", b"flotilla-audit-export/2", 1)


ATTACKS: tuple[Callable[[bytes], bytes], ...] = (
    two_events_more,
    two_events_more_before_the_anchor,
    two_events_more_under_the_anchors_name,
    nothing_signed,
    nothing_signed_but_events,
    cut_back,
    header_twice,
    last_line_twice,
    whole_file_twice,
    unknown_kind,
    unknown_session,
    anchor_twice,
    inclusion_twice,
    inclusion_of_another_entry,
    former_format,
    another_tenant,
    old_format,
)


async def test_a_forger_with_all_but_the_key_gets_no_good(
    recorder: Recorder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "forged.jsonl"
    for session in SESSIONS:
        genuine = await recorder.export(session)
        for attack in ATTACKS:
            file.write_bytes(attack(genuine))
            code = main([str(file), "--public-key", str(recorder.public_key)])
            out = capsys.readouterr().out
            assert (code, "GOOD" in out) == (1, False), (session, attack.__name__, out)
            assert "line " in out or "UNSIGNED" in out, (session, attack.__name__, out)


async def test_events_behind_the_last_signed_one_are_unsigned(
    recorder: Recorder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The real product's case: the checkpoint has not caught up; and the forger's, who adds to a genuine file."""
    await recorder.store.append("plain", [said("newer than the checkpoint")])
    await recorder.project(signed=False)
    file = tmp_path / "export.jsonl"
    file.write_bytes(await recorder.export("plain"))
    assert main([str(file), "--public-key", str(recorder.public_key)]) == 1
    out = capsys.readouterr().out
    assert "UNSIGNED events 7 to 7 are chained, but no checkpoint in the file has signed them" in out
    assert "UNSIGNED session plain: 7 events, verified up to 7, signed up to 6" in out
    file.write_bytes(two_events_more(file.read_bytes()))
    assert main([str(file), "--public-key", str(recorder.public_key)]) == 1
    assert "UNSIGNED events 7 to 9 are chained" in capsys.readouterr().out


async def test_a_session_without_a_signed_event_is_unsigned(recorder: Recorder) -> None:
    await recorder.store.ensure_session("empty", "ada")
    assert word_of(await recorder.export("empty"), recorder.keys()) == "UNSIGNED"
    await recorder.store.fork("plain", 2, "unseen")
    assert word_of(await recorder.export("unseen"), recorder.keys()) == "UNSIGNED"


async def test_a_checkpoint_signed_with_another_key_is_bad(recorder: Recorder, tmp_path: Path) -> None:
    """The forger makes a history and signs it with a key of their own, under the trusted key's name, too."""
    create_key_pair(tmp_path / "forger.pem", tmp_path / "forger.pub")
    signer, body = load_signer(tmp_path / "forger.pem"), encode_event(event_at("plain", 1, "bob approves"))
    digest = next_chain_hash(genesis_hash(TENANT, "plain"), body)
    root = session_head_leaf(TENANT, "plain", 1, digest).hex()
    statement = Statement(
        partition=0,
        number=1,
        previous=NO_PREVIOUS_CHECKPOINT,
        next_offset=1,
        heads=1,
        merkle_root=root,
        created_at="2026-01-31",
    ).to_bytes()
    header = parsed(await recorder.export("plain"))[0]
    assert isinstance(header, Header)
    part = msgspec.structs.replace(header.segments[0], upto_seq=1, signed_seq=1)
    (trusted,) = {line.key_id for line in parsed(await recorder.export("plain")) if isinstance(line, Anchor)}
    for key_id in (signer.key_id, trusted):
        anchor = Anchor(
            session="plain",
            seq=1,
            hash=digest.hex(),
            index=0,
            path=[],
            statement=statement.decode(),
            signature=signer.sign(statement),
            key_id=key_id,
        )
        event = Event(session="plain", seq=1, hash=digest.hex(), body=body.decode())
        end = End(events=1, witnesses=0, anchors=1, inclusions=0)
        forged = written([msgspec.structs.replace(header, segments=[part]), event, anchor, end])
        verdict = verify_export(read_export_lines(BytesIO(forged)), recorder.keys())
        assert [problem.kind for problem in verdict.problems] == ["checkpoint"]
        assert word_of(forged, load_public_keys(tmp_path / "forger.pub")) == ("GOOD" if key_id != trusted else "BAD")


async def test_a_fork_cannot_hide_where_it_comes_from(recorder: Recorder) -> None:
    """`below` has nothing of its parent `fork`; that it is a fork of `plain` at 3 is proven all the same."""
    genuine = await recorder.export("below")
    lines = parsed(genuine)
    header = lines[0]
    assert isinstance(header, Header)
    assert [part.session for part in header.segments] == ["plain", "fork", "below"]
    plain, fork, below = header.segments
    for segments in ([plain, below], [plain, msgspec.structs.replace(fork, after_seq=2), below], [fork, below]):
        changed = [msgspec.structs.replace(header, segments=segments), *lines[1:]]
        assert word_of(written(changed), recorder.keys()) == "BAD"
    without = [line for line in lines if getattr(line, "session", "") != "fork" or isinstance(line, Header)]
    assert word_of(written(without), recorder.keys()) == "BAD"


class Endless:
    """A file without an end or a newline."""

    def __init__(self, unit: bytes) -> None:
        self._unit = unit
        self.asked = 0

    def readline(self, limit: int) -> bytes:
        self.asked += 1
        return (self._unit * (limit // len(self._unit) + 1))[:limit]


def hostile_lines() -> Iterator[tuple[str, bytes]]:
    """Heads of lines that would cost memory, time or the stack."""
    yield "nested arrays", b'{"kind":"event","session":' + b"[" * 2_000_000
    yield "nested objects", b'{"a":' * 500_000
    yield "a nested body", b'{"kind":"event","body":"' + b"[" * 2_000_000 + b'"}'
    yield "a long number", b'{"kind":"event","session":"plain","seq":' + b"9" * 2_000_000 + b"}"
    yield "a long name", b'{"' + b"k" * 2_000_000 + b'":1}'
    yield "open strings", b'{"kind":"' + b'\\"' * 1_000_000
    yield "many fields", b'{"kind":"end"' + b',"a":1' * 300_000 + b"}"
    yield "a terminal's commands", b'{"kind":"\\u001b]0;owned\\u0007\\u202e","\x9b2J":1}'


async def test_a_hostile_line_costs_little_and_is_named(
    recorder: Recorder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    header, rest = (await recorder.export("plain")).split(b"\n", 1)
    file = tmp_path / "hostile.jsonl"
    for name, line in hostile_lines():
        file.write_bytes(header + b"\n" + line + b"\n" + rest)
        began = time.process_time()
        assert main([str(file), "--public-key", str(recorder.public_key)]) == 1, name
        assert time.process_time() - began < 2, name
        out = capsys.readouterr().out
        assert "line 2" in out, name
        assert len(out) < 2_000, name
        assert out.replace("\n", "").isprintable(), name
        assert out.isascii(), name


async def test_a_body_that_nests_too_deeply_is_not_an_event(recorder: Recorder) -> None:
    """Its hash follows: only reading it could hurt."""
    header = parsed(await recorder.export("plain"))[0]
    assert isinstance(header, Header)
    body = b'{"data":' + b"[" * 1_000_000 + b"]" * 1_000_000 + b',"tenant":"default"}'
    event = Event(
        session="plain", seq=1, hash=next_chain_hash(genesis_hash(TENANT, "plain"), body).hex(), body=body.decode()
    )
    verdict = verify_export([encode_export_line(header), encode_export_line(event)], recorder.keys())
    assert [problem.detail for problem in verdict.problems] == ["line 2: its bytes are not an event"]


async def test_a_file_without_an_end_is_read_no_further_than_a_line_may_be(recorder: Recorder) -> None:
    for unit in (b"\0", b"[", b'{"kind":"header",', b" "):
        endless = Endless(unit)
        tracemalloc.start()
        try:
            assert word_of(endless, recorder.keys()) in {"BAD", "NOT AN EXPORT"}
            assert tracemalloc.get_traced_memory()[1] < 8 * MAX_LINE_BYTES
        finally:
            tracemalloc.stop()
        assert endless.asked == 1


async def test_the_verifier_holds_a_few_lines_whatever_the_files_size(recorder: Recorder) -> None:
    header = parsed(await recorder.export("plain"))[0]
    assert isinstance(header, Header)
    tracemalloc.start()
    try:
        peaks = [peak_of(header, count, recorder.keys()) for count in (100, 10_000)]
    finally:
        tracemalloc.stop()
    assert peaks[1] < peaks[0] + 200_000, "it would hold 3 MB of events"


def peak_of(header: Header, count: int, keys: PublicKeys) -> int:
    """The most bytes that were in use while `count` chained events were read."""
    part = msgspec.structs.replace(header.segments[0], upto_seq=count, signed_seq=count)
    tracemalloc.reset_peak()
    began = tracemalloc.get_traced_memory()[0]
    verdict = verify_export(long_export(msgspec.structs.replace(header, segments=[part]), count), keys)
    assert (verdict.word, verdict.events) == ("UNSIGNED", count)
    return tracemalloc.get_traced_memory()[1] - began


def long_export(header: Header, count: int) -> Iterator[bytes]:
    yield encode_export_line(header)
    chain = genesis_hash(TENANT, "plain")
    for seq in range(1, count + 1):
        body = encode_event(event_at("plain", seq))
        chain = next_chain_hash(chain, body)
        yield encode_export_line(Event(session="plain", seq=seq, hash=chain.hex(), body=body.decode()))
    yield encode_export_line(End(events=count, witnesses=0, anchors=0, inclusions=0))
