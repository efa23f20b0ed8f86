"""What kind of document an upload is: what its bytes are counts, then what it was sent as, then its name's ending."""

from pathlib import PurePosixPath

from flotilla.contracts.errors import Invalid
from flotilla.knowledge.documents import MAX_DOCUMENT_BYTES, UploadedDocument
from flotilla.knowledge.package import OfficePackage

MARKDOWN, HTML, PLAIN, CSV = "text/markdown", "text/html", "text/plain", "text/csv"
PDF, MAIL = "application/pdf", "message/rfc822"
_OFFICE = "application/vnd.openxmlformats-officedocument"
DOCX = f"{_OFFICE}.wordprocessingml.document"
PPTX = f"{_OFFICE}.presentationml.presentation"
XLSX = f"{_OFFICE}.spreadsheetml.sheet"
MEDIA_TYPES = (MARKDOWN, HTML, PLAIN, CSV, PDF, MAIL, DOCX, PPTX, XLSX)

_BY_ENDING = {
    ".md": MARKDOWN,
    ".markdown": MARKDOWN,
    ".mdx": MARKDOWN,
    ".html": HTML,
    ".htm": HTML,
    ".xhtml": HTML,
    ".txt": PLAIN,
    ".text": PLAIN,
    ".rst": PLAIN,
    ".adoc": PLAIN,
    ".org": PLAIN,
    ".csv": CSV,
    ".tsv": CSV,
    ".pdf": PDF,
    ".eml": MAIL,
    ".docx": DOCX,
    ".docm": DOCX,
    ".pptx": PPTX,
    ".pptm": PPTX,
    ".ppsx": PPTX,
    ".xlsx": XLSX,
    ".xlsm": XLSX,
}
_SAME = {
    "text/x-markdown": MARKDOWN,
    "application/xhtml+xml": HTML,
    "text/x-rst": PLAIN,
    "text/prs.fallenstein.rst": PLAIN,
    "application/csv": CSV,
    "text/tab-separated-values": CSV,
}
_UNSAID = ("", "application/octet-stream")
_OF_MAIN_PART = {"wordprocessingml": DOCX, "presentationml": PPTX, "spreadsheetml": XLSX}
"""By what the media type of an Office document's main part holds."""
_OF_MAIN_PART |= {"ms-word": DOCX, "ms-powerpoint": PPTX, "ms-excel.sheet.macroenabled": XLSX}
_PDF_MARK, _ZIP_MARK, _OLE_MARK = b"%PDF-", b"PK\x03\x04", b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"
_PDF_OBJECT = b" obj"
_PDF_HEAD_BYTES = 1024
"""How far into a file readers look for the mark."""
_ENCRYPTED = "EncryptedPackage".encode("utf-16-le")
_BY_MARK = (PDF, DOCX, PPTX, XLSX)
_PAGE_MARKS = (b"<!doctype html", b"<html")
_SUPPORTED = (
    "send Markdown (text/markdown), HTML, plain text, CSV, PDF, mail (EML), or Word, PowerPoint and Excel in their "
    "forms since 2007 (DOCX, PPTX, XLSX)"
)


def check_upload_size(upload: UploadedDocument) -> None:
    """Refuse what is empty or too large before anything of it is read.

    Raises:
        Invalid: it is.
    """
    if not upload.content.strip():
        raise Invalid(f"{upload.uri}: is empty")
    if len(upload.content) > MAX_DOCUMENT_BYTES:
        raise Invalid(f"{upload.uri}: has {len(upload.content)} bytes, {MAX_DOCUMENT_BYTES} are allowed: split it")


def detect_media_type(upload: UploadedDocument) -> str:
    """One of MEDIA_TYPES.

    Raises:
        Invalid: a kind that is not read, or one that can't be recognized.
    """
    shown = _shown_by(upload)
    if shown:
        return shown
    said = _said_by(upload)
    if said in _BY_MARK:
        if upload.content.lstrip()[:64].lower().startswith(_PAGE_MARKS):
            return HTML  # what many programs save under these names
        raise Invalid(f"{upload.uri}: is not what its name or type says ({said}): {_SUPPORTED}")
    return said


def _said_by(upload: UploadedDocument) -> str:
    said = upload.media_type.split(";")[0].strip().lower()
    if said in _UNSAID:
        ending = PurePosixPath(upload.uri).suffix.lower()
        if ending in _BY_ENDING:
            return _BY_ENDING[ending]
        name = repr(ending) if ending else "a name without ending"
        raise Invalid(f"{upload.uri}: can't tell its type from {name}: {_SUPPORTED}")
    media_type = _SAME.get(said, said)
    if media_type not in MEDIA_TYPES:
        raise Invalid(f"{upload.uri}: media type {said} is not supported: {_SUPPORTED}")
    return media_type


def _shown_by(upload: UploadedDocument) -> str | None:
    """The kind that the bytes show by themselves; None for text.

    Raises:
        Invalid: an archive, or an Office document of a form that is not read.
    """
    content = upload.content
    if content.startswith(_OLE_MARK):
        reason = "is encrypted with a password" if _ENCRYPTED in content else "is in an old binary format of Office"
        raise Invalid(f"{upload.uri}: {reason}: save it as .docx, .pptx or .xlsx without a password")
    if content.startswith(_ZIP_MARK):
        return _office(upload)
    begins = content.startswith(_PDF_MARK) or (_PDF_MARK in content[:_PDF_HEAD_BYTES] and _said_as_pdf(upload))
    return PDF if begins and _PDF_OBJECT in content else None


def _said_as_pdf(upload: UploadedDocument) -> bool:
    return PDF in upload.media_type or upload.uri.lower().endswith(".pdf")


def _office(upload: UploadedDocument) -> str:
    try:
        package = OfficePackage(upload.content)
        kind = package.content_type(package.main).lower() if package.main else ""
    except Invalid as error:
        raise Invalid(f"{upload.uri}: {error}") from error
    found = next((media_type for mark, media_type in _OF_MAIN_PART.items() if mark in kind), None)
    if found is None:
        raise Invalid(f"{upload.uri}: is a ZIP archive, not a document: unpack it; {_SUPPORTED}")
    return found
