"""From the bytes of an upload to text: what can't be read is refused with the reason."""

import codecs
import re
from pathlib import PurePosixPath

from flotilla.contracts.errors import Invalid
from flotilla.knowledge.documents import MAX_DOCUMENT_BYTES, Upload

MARKDOWN, HTML, PLAIN = "text/markdown", "text/html", "text/plain"

_BY_ENDING = {
    ".md": MARKDOWN,
    ".markdown": MARKDOWN,
    ".html": HTML,
    ".htm": HTML,
    ".xhtml": HTML,
    ".txt": PLAIN,
    ".text": PLAIN,
    ".rst": PLAIN,
}
_SAME = {
    "text/x-markdown": MARKDOWN,
    "application/xhtml+xml": HTML,
    "text/x-rst": PLAIN,
    "text/prs.fallenstein.rst": PLAIN,
}
_UNSAID = ("", "application/octet-stream")
_BYTE_ORDER_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_CHARSET_PARAMETER = re.compile(r"charset\s*=\s*\"?([\w.:-]+)", re.IGNORECASE)
_META_CHARSET = re.compile(rb"<meta[^>]+charset\s*=\s*[\"']?\s*([\w.:-]+)", re.IGNORECASE)
_META_REACH_BYTES = 1024
# Bytes that text never holds; tab, newline, form feed and carriage return it does.
_BINARY = re.compile(rb"[\x00-\x08\x0e-\x1a\x1c-\x1f]")


def media_type_of(upload: Upload) -> str:
    """`text/markdown`, `text/html` or `text/plain`.

    Raises:
        Invalid: another type, or none and an ending that is not known.
    """
    said = upload.media_type.split(";")[0].strip().lower()
    if said in _UNSAID:
        ending = PurePosixPath(upload.uri).suffix.lower()
        if ending in _BY_ENDING:
            return _BY_ENDING[ending]
        raise Invalid(f"{upload.uri}: can't tell its type from {ending or 'a name without ending'!r}: {_SUPPORTED}")
    media_type = _SAME.get(said, said)
    if media_type not in (MARKDOWN, HTML, PLAIN):
        raise Invalid(f"{upload.uri}: media type {said} is not supported: {_SUPPORTED}")
    return media_type


_SUPPORTED = "send Markdown (text/markdown), HTML (text/html) or plain text (text/plain)"


def text_of(upload: Upload, media_type: str) -> str:
    """The text of `upload`, line ends as `\\n`.

    Raises:
        Invalid: empty, too large, binary, or not in the encoding it claims (UTF-8 unless it says otherwise).
    """
    content = upload.content
    if not content.strip():
        raise Invalid(f"{upload.uri}: is empty")
    if len(content) > MAX_DOCUMENT_BYTES:
        raise Invalid(f"{upload.uri}: has {len(content)} bytes, {MAX_DOCUMENT_BYTES} are allowed: split it")
    encoding = _encoding_of(upload, media_type)
    if encoding.startswith("utf-8") and _BINARY.search(content):
        raise Invalid(f"{upload.uri}: is binary, not text")
    try:
        text = content.decode(encoding)
    except LookupError:
        raise Invalid(f"{upload.uri}: encoding {encoding!r} is unknown: send it as UTF-8") from None
    except UnicodeDecodeError as error:
        raise Invalid(f"{upload.uri}: byte {error.start} is not {encoding}: {error.reason}; send it as UTF-8") from None
    if "\x00" in text:
        raise Invalid(f"{upload.uri}: is binary, not text")
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _encoding_of(upload: Upload, media_type: str) -> str:
    for mark, encoding in _BYTE_ORDER_MARKS:
        if upload.content.startswith(mark):
            return encoding
    parameter = _CHARSET_PARAMETER.search(upload.media_type)
    if parameter:
        return parameter.group(1).lower()
    meta = _META_CHARSET.search(upload.content[:_META_REACH_BYTES]) if media_type == HTML else None
    return meta.group(1).decode("ascii").lower() if meta else "utf-8"
