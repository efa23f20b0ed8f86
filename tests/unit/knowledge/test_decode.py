import pytest

from flotilla.contracts.errors import Invalid
from flotilla.knowledge.decode import decode_text
from flotilla.knowledge.documents import MAX_DOCUMENT_BYTES, UploadedDocument
from flotilla.knowledge.kinds import HTML, MARKDOWN, PLAIN, detect_media_type


def upload(content: bytes, uri: str = "a.txt", media_type: str = "") -> UploadedDocument:
    return UploadedDocument(uri=uri, content=content, media_type=media_type)


@pytest.mark.parametrize(
    ("uri", "said", "media_type"),
    [
        ("notes/A.MD", "", MARKDOWN),
        ("a.html", "application/octet-stream", HTML),
        ("a.rst", "", PLAIN),
        ("a.adoc", "", PLAIN),
        ("a.mdx", "", MARKDOWN),
        ("no-ending", "text/html; charset=utf-8", HTML),
        ("a.md", "text/plain", PLAIN),
        ("a", "application/xhtml+xml", HTML),
    ],
)
def test_the_type_is_what_was_said_else_what_the_name_ends_in(uri: str, said: str, media_type: str) -> None:
    assert detect_media_type(upload(b"x", uri, said)) == media_type


@pytest.mark.parametrize(("uri", "said"), [("a.pdf", ""), ("a", ""), ("a.txt", "application/pdf")])
def test_another_type_is_refused_with_those_that_are_read(uri: str, said: str) -> None:
    with pytest.raises(Invalid, match="text/markdown"):
        detect_media_type(upload(b"x", uri, said))


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "is empty"),
        (b" \n\t ", "is empty"),
        (b"\xff\xfe\xff", "is not utf-16"),
        (b"caf\x81", "byte 3 is not utf-8"),
        (b"\x7fELF\x02\x01\x01\x00\x00", "is binary"),
        (b"%PDF-1.7\n\x00\x01", "is binary"),
        ("a\x00b".encode("utf-16"), "is binary"),
    ],
)
def test_what_is_not_text_is_refused_with_the_reason(content: bytes, reason: str) -> None:
    with pytest.raises(Invalid, match=f"a.txt: .*{reason}"):
        decode_text(upload(content), PLAIN)


def test_an_unknown_encoding_is_refused() -> None:
    with pytest.raises(Invalid, match="'klingon' is unknown"):
        decode_text(upload(b"x", media_type="text/plain; charset=klingon"), PLAIN)


def test_a_document_over_the_limit_is_refused() -> None:
    with pytest.raises(Invalid, match="split it"):
        decode_text(upload(b"x" * (MAX_DOCUMENT_BYTES + 1)), PLAIN)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
def test_unicode_is_read_in_any_form_with_a_byte_order_mark(encoding: str) -> None:
    assert decode_text(upload("Zürich\r\n„ja“".encode(encoding)), PLAIN) == "Zürich\n„ja“"


def test_the_encoding_that_was_said_is_used() -> None:
    assert decode_text(upload(b"caf\xe9", media_type="text/plain; charset=ISO-8859-1"), PLAIN) == "café"


def test_a_page_says_its_encoding_itself() -> None:
    page = b"<html><head><meta charset='windows-1252'></head>\x93ja\x94</html>"
    assert "“ja”" in decode_text(upload(page, "a.html"), HTML)
