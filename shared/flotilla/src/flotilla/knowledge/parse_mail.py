"""Mail as it is saved to a file (RFC 5322, MIME): who wrote what to whom, and what is attached."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from email import message_from_bytes
from email.message import Message
from email.policy import default as default_policy
from typing import TypeAlias

from flotilla.contracts.errors import Invalid
from flotilla.knowledge.documents import BlockPlace, ParsedDocument, TextBlock, UploadedDocument
from flotilla.knowledge.kinds import MEDIA_TYPES

MAX_PARTS = 1000
MAX_NAME_CHARACTERS = 100
MAX_DEPTH = 10
"""Messages within messages, and parts within parts."""
_HEADERS = ("From", "To", "Cc", "Date")
_BODIES = ("text/plain", "text/html")
_MESSAGE = "message/rfc822"
_FULLER = 4
"""A page with so many times the characters of the plain text is not another form of it."""

ParsePart: TypeAlias = Callable[[UploadedDocument], ParsedDocument]
"""How the content of a part is read; raises Invalid."""


def parse_mail(content: bytes, parse_part: ParsePart) -> ParsedDocument:
    """Blocks of the message and of its attachments; those that can't be read are named among what was skipped.

    Raises:
        Invalid: it has more parts, or more of them within each other, than are read.
    """
    message = message_from_bytes(content, policy=default_policy)
    reading = _Reading(parse_part)
    reading.message(message, 0)
    return ParsedDocument(reading.blocks, _header(message, "Subject"), tuple(reading.skipped))


@dataclass
class _Reading:
    parse_part: ParsePart
    blocks: list[TextBlock] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
    parts: int = 0

    def message(self, message: Message, depth: int) -> None:
        subject = _header(message, "Subject")
        self.blocks += [TextBlock(subject, 1)] if subject else []
        lines = (f"{name}: {value}" for name in _HEADERS if (value := _header(message, name)))
        self.blocks.append(TextBlock("\n".join(lines)))
        self._part(message, depth)

    def _part(self, part: Message, depth: int) -> None:
        self.parts += 1
        if self.parts > MAX_PARTS or depth > MAX_DEPTH:
            raise Invalid(f"has more than {MAX_PARTS} parts, or more than {MAX_DEPTH} within each other")
        kind = part.get_content_type()
        inner = _inner(part)
        if kind == "multipart/alternative" and inner:
            chosen = self._chosen(inner)
            self._part(chosen, depth + 1)
            for other in inner:
                if other is not chosen:
                    self._attachments_of(other, depth + 1)
        elif inner:
            for one in inner:
                (self.message if kind == _MESSAGE else self._part)(one, depth + 1)
        elif kind in _BODIES and part.get_content_disposition() != "attachment":
            self._body(part)
        else:
            self._attachment(part)

    def _chosen(self, parts: list[Message]) -> Message:
        """Of forms of the same text the plain one, unless it only says that there is another; else the page, and
        where there is none the last, which is the richest."""
        plain = next((part for part in parts if part.get_content_type() == "text/plain" and _bytes(part).strip()), None)
        pages = ((part, page) for part in parts for page in part.walk() if page.get_content_type() == "text/html")
        rich, page = next(pages, (parts[-1], None))
        if plain is None or (page and _FULLER * len(_bytes(plain)) < self._size(page)):
            return rich
        return plain

    def _size(self, part: Message) -> int:
        """How many characters of text a part has; 0 for one that can't be read."""
        try:
            return sum(len(block.text) for block in self._read_body(part))
        except Invalid:
            return 0

    def _attachments_of(self, part: Message, depth: int) -> None:
        """Read what is attached to a form of the text that is not chosen: Apple's Mail puts files between its lines."""
        if part.get_content_disposition() == "attachment":
            self._part(part, depth)
        elif part.is_multipart():
            for one in _inner(part):
                self._attachments_of(one, depth + 1)

    def _body(self, part: Message) -> None:
        try:
            self.blocks += self._read_body(part)
        except Invalid as error:
            self.skipped.append(f"a part of the message: {str(error).removeprefix(': ')}")

    def _read_body(self, part: Message) -> list[TextBlock]:
        try:
            return self.parse_part(_upload(part, "")).blocks
        except Invalid:  # mail programs name encodings that there are not, or another than they used
            return self.parse_part(replace(_upload(part, ""), media_type=part.get_content_type())).blocks

    def _attachment(self, part: Message) -> None:
        name = (part.get_filename() or part.get_content_type())[:MAX_NAME_CHARACTERS]
        try:
            parsed = self.parse_part(_upload(part, name))
        except Invalid as error:
            self.skipped.append(f"attachment {name}: {str(error).removeprefix(f'{name}: ')}")
            return
        self.blocks.append(TextBlock(name, 1, place=BlockPlace(f"attachment {name}")))
        self.blocks += [replace(block, place=_within(name, block.place)) for block in parsed.blocks]
        self.skipped += [f"attachment {name}: {one}" for one in parsed.skipped]


def _inner(part: Message) -> list[Message]:
    payload = part.get_payload()
    return [one for one in payload if isinstance(one, Message)] if isinstance(payload, list) else []


def _upload(part: Message, name: str) -> UploadedDocument:
    charset = part.get_content_charset("")
    kind = part.get_content_type() if part.get_content_type() in MEDIA_TYPES else ""  # the name's ending decides
    return UploadedDocument(
        uri=name, content=_bytes(part), media_type=f"{kind}; charset={charset}" if charset else kind
    )


def _bytes(part: Message) -> bytes:
    content = part.get_payload(decode=True)
    return content if isinstance(content, bytes) else b""


def _header(message: Message, name: str) -> str:
    try:
        value = message.get(name)
        return " ".join(str(value or "").split())
    except (ValueError, IndexError, LookupError, AttributeError):  # what its parser makes of broken ones
        return ""


def _within(name: str, place: BlockPlace | None) -> BlockPlace:
    return BlockPlace(f"attachment {name}, {place.kind}", place.number) if place else BlockPlace(f"attachment {name}")
