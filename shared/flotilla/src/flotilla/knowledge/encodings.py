"""Which encoding bytes are in: as browsers decide it (WHATWG Encoding, HTML 13.2.3), and never against the bytes.

A byte order mark decides, else the label of the upload, else the page's own, else UTF-8. Only encodings of the WHATWG
standard are known, under all of their labels; `ISO-8859-1` means windows-1252. Two departures from browsers, which show
whatever comes out: bytes that are UTF-8 beyond doubt are read as such under any label, and text that does not look like
its encoding is refused.
"""

import codecs
import re
from dataclasses import dataclass
from typing import Any

import webencodings
from selectolax.lexbor import LexborHTMLParser

HEAD_BYTES = 64 * 1024
"""How far into a page its own label is looked for; browsers look for it everywhere."""
_XML_DECLARATION_BYTES = 256
_BYTE_ORDER_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_UTF8 = "utf-8"
_UTF16 = ("utf-16le", "utf-16be")
_FALLBACK = "windows-1252"
# What Python calls them, where webencodings names a smaller set than the standard.
_CODECS = {"gbk": "gb18030", "x-user-defined": "cp1252"}
_WINDOWS_LATIN = ("windows-1250", "windows-1252", "windows-1254", "windows-1257", "windows-1258", "macintosh")
_LATIN = frozenset((*_WINDOWS_LATIN, *(f"iso-8859-{part}" for part in (2, 3, 4, 10, 13, 14, 15, 16))))
_EAST_ASIAN = frozenset(("big5", "euc-jp", "euc-kr", "gb18030", "gbk", "iso-2022-jp", "shift_jis"))
# Bytes that text never holds; tab, newline, form feed, escape and carriage return it does.
_BINARY = re.compile(rb"[\x00-\x08\x0e-\x1a\x1c-\x1f]")
_BEYOND_ASCII = re.compile(r"[^\x00-\x7f]+")
_NOT_ASCII = re.compile(rb"[^\x00-\x7f]")
_THREE_BYTES = re.compile(rb"[\xe0-\xf4]")
_RUN_OF_ANOTHER_SCRIPT = 4


class NotText(Exception):
    """The bytes are not text in their encoding; the message says why, and what to do."""


@dataclass(frozen=True, slots=True)
class TextEncoding:
    """What bytes are decoded by."""

    name: str
    codec: str


def detect_encoding(content: bytes, media_type: str, *, is_page: bool) -> TextEncoding:
    """Return the encoding of `content`. `media_type` is the upload's, with its charset if it has one.

    Raises:
        NotText: the label of `media_type` names no encoding.
    """
    for mark, codec in _BYTE_ORDER_MARKS:
        if content.startswith(mark):
            return TextEncoding(codec.removesuffix("-sig"), codec)
    label = _parameter(media_type, "charset")
    name = _named(label) if label else None
    if label and name is None:
        raise NotText(f"encoding {label!r} is unknown: send it as UTF-8")
    if name is None and is_page:
        name = _own_label(content)
        if name == _UTF8 and not _is_utf8(content):  # a program's habit, not a fact
            name = None
    return _fitting(name, content)


def decode_content(content: bytes, encoding: TextEncoding) -> str:
    """Return the text of `content`.

    Raises:
        NotText: it is binary, or not in that encoding.
    """
    if not encoding.codec.startswith(("utf-16", "utf-32")) and _BINARY.search(content):
        raise NotText("is binary, not text")
    try:
        text = content.decode(encoding.codec)
    except UnicodeDecodeError as error:
        raise NotText(f"byte {error.start} is not {encoding.name}: {error.reason}; send it as UTF-8") from None
    if encoding.name in _LATIN and not _looks_latin(text):
        raise NotText(f"does not look like text in {encoding.name}: send it as UTF-8, or name its encoding")
    return text


def _fitting(name: str | None, content: bytes) -> TextEncoding:
    """What was named, unless the bytes say otherwise."""
    is_utf8 = _is_utf8(content)
    if name is None:
        return _encoding(_FALLBACK if not is_utf8 and _is_text(content, _encoding(_FALLBACK)) else _UTF8)
    if name in _UTF16:
        return _encoding(_UTF8 if is_utf8 and b"\x00" not in content else _byte_order(content))
    # Two bytes that are one letter in UTF-8 are one character in GBK, too; three are that by rare chance only.
    beyond_doubt = _THREE_BYTES if name in _EAST_ASIAN else _NOT_ASCII
    return _encoding(_UTF8 if is_utf8 and beyond_doubt.search(content) else name)


def _is_text(content: bytes, encoding: TextEncoding) -> bool:
    try:
        decode_content(content, encoding)
    except NotText:
        return False
    return True


def _encoding(name: str) -> TextEncoding:
    return TextEncoding(name, _CODECS.get(name) or _lookup(name).codec_info.name)


def _byte_order(content: bytes) -> str:
    """Latin letters, digits and spaces have a zero byte: first in big endian, second in little endian."""
    return "utf-16be" if content[0::2].count(0) > content[1::2].count(0) else "utf-16le"


def _is_utf8(content: bytes) -> bool:
    try:
        content.decode()
    except UnicodeDecodeError:
        return False
    return True


def _looks_latin(text: str) -> bool:
    """Languages written in Latin letters have few in a row that are not ASCII."""
    runs = [run for run in _BEYOND_ASCII.findall(text) if len(set(run)) > 1 or run.isalpha()]
    foreign = sum(len(run) for run in runs if len(run) >= _RUN_OF_ANOTHER_SCRIPT)
    return 2 * foreign <= sum(map(len, runs))


def _named(label: str | None) -> str | None:
    found = _lookup(label) if label else None
    return found.name if found is not None and found.name != "replacement" else None


def _lookup(label: str) -> Any:
    return webencodings.lookup(label)  # type: ignore[no-untyped-call]


def _own_label(content: bytes) -> str | None:
    """What a page says of itself. It was read so far as ASCII, so it is not UTF-16."""
    head = content[:HEAD_BYTES].decode("latin-1")
    for label in (_xml_label(head), *_meta_labels(head)):
        name = _named(label)
        if name is not None:
            return _UTF8 if name in _UTF16 else name
    return None


def _xml_label(head: str) -> str | None:
    declaration, end, _ = head[:_XML_DECLARATION_BYTES].partition("?>")
    if not end or not declaration.startswith("<?xml"):
        return None
    _, found, value = declaration.partition("encoding")
    return value.strip(" \t\n\r='\"").split("'")[0].split('"')[0] if found else None


def _meta_labels(head: str) -> list[str | None]:
    labels: list[str | None] = []
    for meta in LexborHTMLParser(head).css("meta"):
        attributes = meta.attributes
        if "charset" in attributes:
            labels.append(attributes["charset"])
        elif (attributes.get("http-equiv") or "").lower() == "content-type":
            labels.append(_parameter(attributes.get("content") or "", "charset"))
    return labels


def _parameter(media_type: str, name: str) -> str | None:
    for part in media_type.split(";")[1:]:
        key, equals, value = part.partition("=")
        if equals and key.strip().lower() == name:
            return value.strip().strip("'\"") or None
    return None
