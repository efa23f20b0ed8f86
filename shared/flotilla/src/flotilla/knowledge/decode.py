"""From the bytes of an upload to text: what can't be read is refused with the reason."""

from pathlib import PurePosixPath

from flotilla.contracts.errors import Invalid
from flotilla.knowledge.documents import MAX_DOCUMENT_BYTES, Upload
from flotilla.knowledge.encodings import NotText, decoded, encoding_of

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
    """The text of `upload` as people see it: composed, without invisible characters, line ends as `\\n`.

    Raises:
        Invalid: empty, too large, binary, or not in the encoding that it has.
    """
    content = upload.content
    if not content.strip():
        raise Invalid(f"{upload.uri}: is empty")
    if len(content) > MAX_DOCUMENT_BYTES:
        raise Invalid(f"{upload.uri}: has {len(content)} bytes, {MAX_DOCUMENT_BYTES} are allowed: split it")
    try:
        text = decoded(content, encoding_of(content, upload.media_type, is_page=media_type == HTML))
    except NotText as error:
        raise Invalid(f"{upload.uri}: {error}") from None
    if "\x00" in text:
        raise Invalid(f"{upload.uri}: is binary, not text")
    return text.replace("\r\n", "\n").replace("\r", "\n")
