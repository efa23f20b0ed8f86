"""From the bytes of an upload to text: what can't be read is refused with the reason."""

from flotilla.contracts.errors import Invalid
from flotilla.knowledge.documents import UploadedDocument
from flotilla.knowledge.encodings import NotText, decode_content, detect_encoding
from flotilla.knowledge.kinds import HTML, check_upload_size


def decode_text(upload: UploadedDocument, media_type: str) -> str:
    """The text of `upload` as people see it: composed, without invisible characters, line ends as `\\n`.

    Raises:
        Invalid: empty, too large, binary, or not in the encoding that it has.
    """
    content = upload.content
    check_upload_size(upload)
    try:
        text = decode_content(content, detect_encoding(content, upload.media_type, is_page=media_type == HTML))
    except NotText as error:
        raise Invalid(f"{upload.uri}: {error}") from None
    if "\x00" in text:
        raise Invalid(f"{upload.uri}: is binary, not text")
    return text.replace("\r\n", "\n").replace("\r", "\n")
