"""Checkpoints of a log's tree as signed notes: https://c2sp.org/signed-note, https://c2sp.org/tlog-checkpoint.

A note is read strictly and in bounded size, and only its own bytes are verified, never ones that were written again.
"""

import re
from base64 import b64decode, b64encode
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Literal, TypeAlias

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from flotilla.audit.proof import HASH_BYTES
from flotilla.config.signing import PublicKeys, Signer
from flotilla.contracts.errors import ConfigurationError
from flotilla.contracts.names import SESSION_EVENTS_PARTITIONS, log_origin

MAX_NOTE_BYTES = 64 * 1024
MAX_SIGNATURES = 32
KeyKind: TypeAlias = Literal[1, 4]
LOG_KEY: KeyKind = 1
"""Ed25519 over the note's text."""
WITNESS_KEY: KeyKind = 4
"""Ed25519 over a time and the note's text: https://c2sp.org/tlog-cosignature."""
_KEY_KIND_BY_BYTE: dict[int, KeyKind] = {1: 1, 4: 4}
_ID_BYTES, _TIME_BYTES = 4, 8
_TREE_SIZE = re.compile(r"(0|[1-9][0-9]{0,18})\Z")
_KEY_NAME = re.compile(r"[!-*,-~]{1,255}\Z")
_SIGNATURE_LINE = re.compile(r"— ([^ +]+) ([A-Za-z0-9+/]+={0,2})\Z")


@dataclass(frozen=True, slots=True)
class NoteSignature:
    """A line under a note."""

    name: str
    key_id: bytes
    value: bytes

    def to_line(self) -> str:
        """The line, without its end."""
        return f"— {self.name} {b64encode(self.key_id + self.value).decode()}"


@dataclass(frozen=True, slots=True)
class SignedNote:
    """A text and what was signed under it."""

    text: str
    signatures: Sequence[NoteSignature]

    def to_bytes(self) -> bytes:
        """The note as it is exchanged."""
        return "".join([self.text, "\n", *(f"{signature.to_line()}\n" for signature in self.signatures)]).encode()


@dataclass(frozen=True, slots=True)
class TreeHead:
    """What a checkpoint says: the root of a log's tree of this size."""

    origin: str
    size: int
    root: bytes

    def to_note_text(self) -> str:
        """The text of its note."""
        return f"{self.origin}\n{self.size}\n{b64encode(self.root).decode()}\n"


@dataclass(frozen=True, slots=True)
class NoteKey:
    """Who signs notes: a log, or a witness."""

    name: str
    kind: KeyKind
    key: Ed25519PublicKey

    @property
    def public_key_bytes(self) -> bytes:
        """The public key, 32 bytes."""
        return self.key.public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw)

    @property
    def key_id(self) -> bytes:
        """What its signatures begin with."""
        return sha256(self.name.encode() + b"\n" + bytes([self.kind]) + self.public_key_bytes).digest()[:_ID_BYTES]

    def to_text(self) -> str:
        """The key as tools take it: `<name>+<id>+<kind and key>`."""
        return f"{self.name}+{self.key_id.hex()}+{b64encode(bytes([self.kind]) + self.public_key_bytes).decode()}"

    def valid_signature_of(self, note: SignedNote) -> NoteSignature | None:
        """The key's signature of the note, if there is one that holds."""
        for signature in note.signatures:
            if (signature.name, signature.key_id) == (self.name, self.key_id) and self._is_signature_valid(
                note, signature.value
            ):
                return signature
        return None

    def _is_signature_valid(self, note: SignedNote, value: bytes) -> bool:
        signed = note.text.encode()
        if self.kind == WITNESS_KEY:
            seconds = int.from_bytes(value[:_TIME_BYTES], "big")
            signed, value = bytes_to_cosign(seconds, note.text), value[_TIME_BYTES:]
        try:
            self.key.verify(value, signed)
        except InvalidSignature:
            return False
        return True


def bytes_to_cosign(seconds: int, text: str) -> bytes:
    """What a witness signs: when it saw the checkpoint, in Unix seconds, and the note's text."""
    return f"cosignature/v1\ntime {seconds}\n{text}".encode()


def sign_tree_head(head: TreeHead, signer: Signer) -> SignedNote:
    """The head's note, signed by the log under its origin's name."""
    key = NoteKey(head.origin, LOG_KEY, signer.public_key)
    return SignedNote(
        head.to_note_text(), [NoteSignature(key.name, key.key_id, signer.sign(head.to_note_text().encode()))]
    )


def decode_note(raw: bytes) -> SignedNote:
    """Read a signed note.

    Raises:
        ValueError: it is not one, or it is too large.
    """
    if len(raw) > MAX_NOTE_BYTES:
        raise ValueError(f"the note has more than {MAX_NOTE_BYTES} bytes")
    whole = raw.decode()
    if any(ord(character) < ord(" ") and character != "\n" for character in whole):
        raise ValueError("the note holds a control character")
    text, separator, signed = whole.rpartition("\n\n")
    if not separator or not signed.endswith("\n"):
        raise ValueError("the note has no signatures behind an empty line")
    return SignedNote(f"{text}\n", decode_signature_lines(signed))


def decode_signature_lines(lines: str) -> list[NoteSignature]:
    """Read lines of signatures, each with its end.

    Raises:
        ValueError: one is not a signature, or there are too many.
    """
    found = [_decode_signature_line(line) for line in lines.removesuffix("\n").split("\n")]
    if len(found) > MAX_SIGNATURES:
        raise ValueError(f"the note has more than {MAX_SIGNATURES} signatures")
    return found


def decode_tree_head(note: SignedNote) -> TreeHead:
    """What a checkpoint's note says. Lines behind the third are extensions that nobody here knows.

    Raises:
        ValueError: it is not a checkpoint.
    """
    origin, size, root, *_ = [*note.text.split("\n"), "", ""]
    if not _KEY_NAME.match(origin) or not _TREE_SIZE.match(size):
        raise ValueError("the note is not a checkpoint: it has no origin, or no size")
    return TreeHead(origin, int(size), _decode_base64(root, HASH_BYTES))


def parse_note_key(text: str) -> NoteKey:
    """Read a key as tools write it.

    Raises:
        ConfigurationError: it is not one, or not of Ed25519.
    """
    try:
        return _parse_note_key(text.strip())
    except ValueError as error:
        raise ConfigurationError(f"{text[:200]!r} is not a key NAME+ID+KEY: {error}") from error


def _parse_note_key(text: str) -> NoteKey:
    name, key_id, encoded = text.split("+", 2)
    kind, raw = (decoded := _decode_base64(encoded, 33))[0], decoded[1:]
    if not _KEY_NAME.match(name):
        raise ValueError("its name holds a space, a plus sign, or a character that is not ASCII")
    if kind not in _KEY_KIND_BY_BYTE:
        raise ValueError(f"keys of kind {kind} are not known here: 1 is a log's, 4 a witness's")
    key = NoteKey(name, _KEY_KIND_BY_BYTE[kind], Ed25519PublicKey.from_public_bytes(raw))
    if key.key_id.hex() != key_id:
        raise ValueError(f"its id is {key.key_id.hex()}, not {key_id}")
    return key


def why_tree_head_not_trusted(note: SignedNote, head: TreeHead, keys: PublicKeys) -> str | None:
    """Why no trusted key of the log vouches for the checkpoint; None when one does."""
    if any(NoteKey(head.origin, LOG_KEY, key).valid_signature_of(note) for key in keys.each()):
        return None
    return f"has no signature of a trusted key for {head.origin}"


def witnesses_that_cosigned(note: SignedNote, witnesses: Iterable[NoteKey]) -> set[bytes]:
    """The keys of those witnesses whose signature is under the note. One key counts once, whatever its names."""
    return {witness.public_key_bytes for witness in witnesses if witness.valid_signature_of(note) is not None}


def partition_log_keys(origin: str, keys: PublicKeys) -> list[NoteKey]:
    """The keys of each partition's tree in the log `origin`, in the order of partitions.

    Raises:
        ConfigurationError: no log may have this name.
    """
    if not is_valid_origin(f"{origin}/00"):
        raise ConfigurationError(
            f"{origin[:200]!r} is no log's name: printable ASCII without spaces and plus signs, as "
            "flotilla.example.com/audit"
        )
    partitions = range(SESSION_EVENTS_PARTITIONS)
    return [NoteKey(log_origin(origin, partition), LOG_KEY, key) for partition in partitions for key in keys.each()]


def is_valid_origin(text: str) -> bool:
    """Whether a log may have this name: printable ASCII without spaces and plus signs."""
    return _KEY_NAME.match(text) is not None


def _decode_signature_line(line: str) -> NoteSignature:
    if (match := _SIGNATURE_LINE.match(line)) is None:
        raise ValueError("a line under the note is not a signature")
    decoded = _decode_base64(match[2], None)
    if len(decoded) <= _ID_BYTES:
        raise ValueError("a signature under the note is too short")
    return NoteSignature(match[1], decoded[:_ID_BYTES], decoded[_ID_BYTES:])


def _decode_base64(text: str, length: int | None) -> bytes:
    decoded = b64decode(text, validate=True)
    if b64encode(decoded).decode() != text or (length is not None and len(decoded) != length):
        raise ValueError("it is not base64, or not of the right length")
    return decoded
