"""The lines of an export: one canonical JSON object each, so that the same history has the same bytes.

`python -m flotilla.audit.verify_export` reads exactly these bytes and no other spelling of them.
"""

from typing import Annotated, ClassVar, Literal, TypeAlias

import msgspec

EXPORT_FORMAT: Literal["flotilla-audit-export/4"] = "flotilla-audit-export/4"
EXPORT_FORMAT_WITHOUT_INCLUSIONS: Literal["flotilla-audit-export/3"] = "flotilla-audit-export/3"
"""Without inclusions; such exports stay valid."""
MAX_LINE_BYTES = 4 * 2**20
"""More than twice the largest event: as a JSON string it has at most two characters per byte."""

_SEQ_LIMIT = 2**53
SessionId: TypeAlias = Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9._:-]{0,127}\Z")]
HexDigest: TypeAlias = Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{64}\Z")]
KeyId: TypeAlias = Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{16}\Z")]
LineCount: TypeAlias = Annotated[int, msgspec.Meta(ge=0, le=_SEQ_LIMIT)]
SequenceNumber: TypeAlias = Annotated[int, msgspec.Meta(ge=1, le=_SEQ_LIMIT)]


class Part(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What one session of the lineage contributes to the history."""

    session: SessionId
    parent: SessionId | None
    after_seq: LineCount
    """0, or the event of the parent at which it was forked."""
    upto_seq: LineCount
    """The last of its events that belongs to the history; below `after_seq` when none does."""
    signed_seq: LineCount
    """Its events are in the file up to here, those behind `upto_seq` as witnesses."""

    @property
    def first_seq_after_history(self) -> int:
        """The seq of its first event behind the history."""
        return max(self.after_seq, self.upto_seq) + 1


class Line(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag=str.lower):
    """Any line; `kind` is the name of its class in lower case."""

    article: ClassVar[str] = "a"


class Header(Line, frozen=True):
    """The first line: whose history it is, and the sessions that it comes from, root first."""

    format: Literal["flotilla-audit-export/3", "flotilla-audit-export/4"]
    tenant: str
    session: SessionId
    segments: list[Part]


class Event(Line, frozen=True):
    """An event of the history. `body` is the CloudEvent's JSON document, character for character."""

    article: ClassVar[str] = "an"
    session: SessionId
    seq: SequenceNumber
    hash: HexDigest
    body: str


class Witness(Event, frozen=True):
    """An event of a parent behind the prefix: no part of the history, but it leads to the checkpoint that signed it."""

    article: ClassVar[str] = "a"


class Anchor(Line, frozen=True):
    """A signed checkpoint that holds the hash of the line before it."""

    article: ClassVar[str] = "an"
    session: SessionId
    seq: SequenceNumber
    hash: HexDigest
    index: LineCount
    path: Annotated[list[HexDigest], msgspec.Meta(max_length=64)]
    statement: str
    signature: bytes
    key_id: KeyId


class Inclusion(Line, frozen=True):
    """Proof that the anchor before it is an entry of its partition's tree, up to a signed checkpoint of that tree."""

    article: ClassVar[str] = "an"
    session: SessionId
    seq: SequenceNumber
    index: LineCount
    path: Annotated[list[HexDigest], msgspec.Meta(max_length=64)]
    checkpoint: str
    """A signed note, with the cosignatures of witnesses."""


class End(Line, frozen=True):
    """The last line: how many lines of each kind there were."""

    article: ClassVar[str] = "an"
    events: LineCount
    witnesses: LineCount
    anchors: LineCount
    inclusions: LineCount | msgspec.UnsetType = msgspec.UNSET
    """Not in the former format."""


AnyLine: TypeAlias = Header | Event | Witness | Anchor | Inclusion | End
_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(AnyLine)


def encode_export_line(line: AnyLine) -> bytes:
    """Return the line's bytes, its newline included."""
    return _encoder.encode(line) + b"\n"


def decode_export_line(raw: bytes) -> AnyLine:
    """Return the line that `raw` is, byte for byte.

    Raises:
        ValueError: it is not a line of an export, or spells one in another way than `encode_export_line`.
    """
    if len(raw) > MAX_LINE_BYTES:
        raise ValueError(f"it has more than {MAX_LINE_BYTES} bytes")
    if not raw.endswith(b"\n"):
        raise ValueError("it does not end with a newline")
    try:
        line: AnyLine = _decoder.decode(raw)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
    if encode_export_line(line) != raw:
        raise ValueError("it is spelled in another way than exports are written: spaces, order, escapes or line end")
    return line
