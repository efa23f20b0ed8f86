"""Signed notes: one spelling, bounded, and a signature only for whom it names."""

from base64 import b64encode
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flotilla.audit.notes import (
    LOG_KEY,
    MAX_NOTE_BYTES,
    WITNESS_KEY,
    NoteKey,
    NoteSignature,
    SignedNote,
    TreeHead,
    bytes_to_cosign,
    decode_note,
    decode_tree_head,
    parse_note_key,
    partition_log_keys,
    sign_tree_head,
    why_tree_head_not_trusted,
    witnesses_that_cosigned,
)
from flotilla.config.signing import PublicKeys, Signer, signer_with_new_key
from flotilla.contracts.errors import ConfigurationError
from tests.support.properties import patient

LOG, WITNESS = signer_with_new_key(), signer_with_new_key()
HEAD = TreeHead("flotilla.example.com/audit/3", 7, bytes(range(32)))
NOTE = sign_tree_head(HEAD, LOG)
RAW = NOTE.to_bytes()
WITNESS_NOTE_KEY = NoteKey("witness.example.org", WITNESS_KEY, WITNESS.public_key)


def cosignature(
    signer: Signer, text: str, name: str = "witness.example.org", seconds: int = 1_700_000_000
) -> NoteSignature:
    key = NoteKey(name, WITNESS_KEY, signer.public_key)
    value = seconds.to_bytes(8, "big") + signer.sign(bytes_to_cosign(seconds, text))
    return NoteSignature(name, key.key_id, value)


def test_a_checkpoint_is_read_as_it_was_written() -> None:
    assert decode_note(RAW) == NOTE
    assert decode_tree_head(decode_note(RAW)) == HEAD
    assert why_tree_head_not_trusted(decode_note(RAW), HEAD, PublicKeys.of(LOG)) is None
    assert RAW.decode().startswith("flotilla.example.com/audit/3\n7\nAAECAwQFBgcICQoL")


@patient
@given(st.integers(0, len(RAW) * 8 - 1))
def test_no_changed_bit_of_the_text_or_signature_passes(bit: int) -> None:
    changed = bytearray(RAW)
    changed[bit // 8] ^= 1 << bit % 8
    try:
        note = decode_note(bytes(changed))
        head = decode_tree_head(note)
    except ValueError:
        return
    assert why_tree_head_not_trusted(note, head, PublicKeys.of(LOG)) is not None


@pytest.mark.parametrize(
    "raw",
    [
        RAW.replace(b"\n", b"\r\n"),
        RAW.replace(b"\n\n", b"\n"),
        RAW + b"\n",
        RAW[:-1],
        RAW.replace("—".encode(), b"-"),
        RAW.replace(b"\n7\n", b"\n7\x00\n"),
        RAW + b"x" * MAX_NOTE_BYTES,
        RAW + "— x AAAA\n".encode(),
        RAW + "— x not/base64!\n".encode(),
        RAW + "— x AAAAAAB=\n".encode(),
        RAW + RAW.split(b"\n\n")[1] * 40,
        b"\xff" + RAW,
    ],
    ids=range(12),
)
def test_another_spelling_is_refused(raw: bytes) -> None:
    with pytest.raises(ValueError, match=r"note|base64|codec"):
        decode_note(raw)


@pytest.mark.parametrize(
    "text", ["x\n07\nAA==\n", "x\n-1\n", "x\n7\n", "\n7\n", "x y\n7\n", "x\n7\nAA==\n", "x\n" + "9" * 40 + "\n"]
)
def test_what_is_not_a_checkpoint_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"not a checkpoint|base64"):
        decode_tree_head(SignedNote(text, NOTE.signatures))


def test_a_signature_in_the_name_of_another_log_does_not_count() -> None:
    other = TreeHead("flotilla.example.com/audit/4", HEAD.size, HEAD.root)
    moved = SignedNote(other.to_note_text(), NOTE.signatures)
    assert why_tree_head_not_trusted(moved, other, PublicKeys.of(LOG)) == (
        "has no signature of a trusted key for flotilla.example.com/audit/4"
    )
    renamed = SignedNote(NOTE.text, [replace(NOTE.signatures[0], name="flotilla.example.com/audit/4")])
    assert why_tree_head_not_trusted(renamed, HEAD, PublicKeys.of(LOG)) is not None


def test_a_witness_counts_once_however_often_and_under_whatever_name_it_signed() -> None:
    twin = NoteKey("twin.example.org", WITNESS_KEY, WITNESS.public_key)
    lines = [cosignature(WITNESS, NOTE.text)] * 2 + [cosignature(WITNESS, NOTE.text, "twin.example.org")]
    note = SignedNote(NOTE.text, [*NOTE.signatures, *lines])
    assert len(witnesses_that_cosigned(decode_note(note.to_bytes()), [WITNESS_NOTE_KEY, WITNESS_NOTE_KEY, twin])) == 1


def test_a_cosignature_is_for_its_time_and_text_only() -> None:
    signature = cosignature(WITNESS, NOTE.text)
    later = replace(signature, value=(1_800_000_000).to_bytes(8, "big") + signature.value[8:])
    other = TreeHead(HEAD.origin, HEAD.size + 1, HEAD.root).to_note_text()
    bare = replace(signature, value=WITNESS.sign(NOTE.text.encode()))
    for note in (
        SignedNote(NOTE.text, [later]),
        SignedNote(other, [signature]),
        SignedNote(NOTE.text, [bare]),
        SignedNote(NOTE.text, [replace(signature, value=b"")]),
        SignedNote(NOTE.text, [cosignature(signer_with_new_key(), NOTE.text)]),
    ):
        assert witnesses_that_cosigned(note, [WITNESS_NOTE_KEY]) == set()
    assert witnesses_that_cosigned(SignedNote(NOTE.text, [later, signature]), [WITNESS_NOTE_KEY]), (
        "a wrong one hides no right one"
    )


def test_a_log_has_a_key_for_each_partition_which_verifies_its_notes() -> None:
    keys = partition_log_keys("flotilla.example.com/audit", PublicKeys.of(LOG))
    assert [key.name for key in keys] == [f"flotilla.example.com/audit/{number}" for number in range(12)]
    assert [key.name for key in keys if key.valid_signature_of(NOTE)] == [HEAD.origin]
    assert parse_note_key(keys[3].to_text()).valid_signature_of(NOTE) is not None
    for name in ("a b", "a+b", "ä.example.com", "x" * 255):
        with pytest.raises(ConfigurationError, match="no log's name"):
            partition_log_keys(name, PublicKeys.of(LOG))


def test_keys_are_read_as_tools_write_them() -> None:
    key = parse_note_key("PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW")
    assert (key.name, key.kind, key.key_id.hex()) == ("PeterNeumann", LOG_KEY, "c74f20a3")
    assert parse_note_key(WITNESS_NOTE_KEY.to_text()).to_text() == WITNESS_NOTE_KEY.to_text()
    mixed = WITNESS_NOTE_KEY.to_text().split("+", 2)
    for wrong in (
        "",
        "PeterNeumann+c74f20a4+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW",
        "Peter Neumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW",
        f"{mixed[0]}+{mixed[1]}+{b64encode(bytes([2]) + WITNESS_NOTE_KEY.public_key_bytes).decode()}",
        f"{mixed[0]}+{mixed[1]}+AA",
    ):
        with pytest.raises(ConfigurationError, match="is not a key NAME"):
            parse_note_key(wrong)
