"""Documents of one session, and a newcomer's folder: loaded in the console, found by the next question."""

import zipfile
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import pytest
from playwright.sync_api import expect

from tests.browser.console import Console, answered
from tests.browser.test_asking import ask
from tests.e2e.stub_endpoint import StubEndpoint


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Files of several kinds: one that is hidden, one that nobody can read, one in a folder below."""
    root = tmp_path / "harbour"
    (root / "rates").mkdir(parents=True)
    (root / "rules.md").write_text("# Rules\n\nDogs are kept on a leash on every pontoon of Westquay.\n")
    (root / "rates" / "berths.csv").write_text("berth,price\nA7,19 euros a night\nB2,23 euros a night\n")
    (root / "notice.html").write_text("<h1>Notice</h1><p>The slipway of Westquay is closed on Sundays.</p>")
    (root / "letter.docx").write_bytes(_docx("Fuel is sold at Westquay by the harbour shop."))
    (root / "picture.png").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(64))
    (root / ".DS_Store").write_text("hidden")
    return root


def _docx(text: str) -> bytes:
    body = (
        '<?xml version="1.0"?><w:document xmlns:w="http://schemas.openxmlformats.org/wordprocessingml/2006/main">'
        f"<w:body><w:p><w:r><w:t>{text}</w:t></w:r></w:p></w:body></w:document>"
    )
    kinds = (
        '<?xml version="1.0"?><Types xmlns="http://schemas.openxmlformats.org/package/2006/content-types">'
        '<Default Extension="rels" ContentType="application/vnd.openxmlformats-package.relationships+xml"/>'
        '<Override PartName="/word/document.xml" ContentType="application/vnd.openxmlformats-officedocument.'
        'wordprocessingml.document.main+xml"/></Types>'
    )
    relations = (
        '<?xml version="1.0"?><Relationships xmlns="http://schemas.openxmlformats.org/package/2006/relationships">'
        '<Relationship Id="r1" Target="word/document.xml" Type="http://schemas.openxmlformats.org/officeDocument/'
        '2006/relationships/officeDocument"/></Relationships>'
    )
    written = BytesIO()
    with zipfile.ZipFile(written, "w") as archive:
        archive.writestr("[Content_Types].xml", kinds)
        archive.writestr("_rels/.rels", relations)
        archive.writestr("word/document.xml", body)
    return written.getvalue()


def test_a_newcomer_loads_a_folder_of_mixed_files_and_gets_a_cited_answer(
    console: Console, model: StubEndpoint, folder: Path
) -> None:
    page = console.person()
    page.goto("/documents")
    page.get_by_label("Folder to add").set_input_files(folder)
    uploads = page.get_by_label("Uploads")
    for name in ("harbour/rules.md", "harbour/rates/berths.csv", "harbour/notice.html", "harbour/letter.docx"):
        expect(uploads.locator("li").filter(has_text=name).first).to_contain_text("1 passage")
    refused = uploads.locator("li").filter(has_text="harbour/picture.png").first
    expect(refused).to_contain_text("refused")
    expect(uploads.get_by_text(".DS_Store")).to_have_count(0)
    page.goto("/ask")
    with model.saying("Dogs are kept on a leash [1]."):
        ask(page, "Are dogs kept on a leash on the pontoons of Westquay?")
        sources = page.get_by_label("Sources")
        expect(sources).to_be_visible()
    sources.get_by_role("button").first.click()
    expect(page.get_by_role("dialog").locator("mark")).to_contain_text("leash")


def test_an_attachment_is_found_by_its_session_alone_until_it_is_removed(
    console: Console, model: StubEndpoint, unique: Callable[[str], str], tmp_path: Path
) -> None:
    session_id = unique("attached")
    file = tmp_path / "plan.md"
    file.write_text("# Plan\n\nThe crane of berth nine lifts twelve tonnes.\n")
    with console.api() as api:
        answered(api, session_id, "Who inspects the mooring lines?")
        page = console.person()
        page.goto(f"/sessions/{session_id}")
        expect(page.get_by_text("No attachment")).to_be_visible()
        page.get_by_label("Files to add").set_input_files(file)
        listed = page.get_by_role("table", name="Attachments of this session")
        expect(listed.get_by_role("button", name="plan.md")).to_be_visible()
        query = "How many tonnes does the crane of berth nine lift?"
        with model.saying("It lifts twelve tonnes [1]."):
            run = answered(api, session_id, query)
            other = answered(api, unique("other"), query)
        uri = f"session:{session_id}/plan.md"
        assert uri in [source["uri"] for source in run["result"]["sources"]]
        assert uri not in [source["uri"] for source in other["result"]["sources"]]
        listed.get_by_role("button", name="plan.md").click()
        expect(page.get_by_role("dialog")).to_contain_text("twelve tonnes")
        page.keyboard.press("Escape")
        listed.get_by_role("button", name="Remove Plan").click()
        page.get_by_role("dialog").get_by_role("button", name="Remove", exact=True).click()
        expect(page.get_by_text("No attachment")).to_be_visible()
        found = api.get("/v1/documents/search", params={"q": query, "session_id": session_id}).json()["passages"]
        assert uri not in [passage["source"]["uri"] for passage in found]


def test_what_of_an_attachment_was_not_read_is_listed(
    console: Console, unique: Callable[[str], str], tmp_path: Path
) -> None:
    session_id = unique("partly")
    letter = tmp_path / "letter.eml"
    letter.write_bytes(
        b"From: a@example.com\r\nTo: b@example.com\r\nSubject: Berths\r\nMIME-Version: 1.0\r\n"
        b'Content-Type: multipart/mixed; boundary="x"\r\n\r\n--x\r\nContent-Type: text/plain\r\n\r\n'
        b"All berths are taken.\r\n--x\r\nContent-Type: image/png\r\n"
        b'Content-Disposition: attachment; filename="photo.png"\r\nContent-Transfer-Encoding: base64\r\n\r\n'
        b"iVBORw0KGgo=\r\n--x--\r\n"
    )
    with console.api() as api:
        answered(api, session_id, "Who inspects the mooring lines?")
    page = console.person()
    page.goto(f"/sessions/{session_id}")
    page.get_by_label("Files to add").set_input_files(letter)
    expect(page.get_by_label("Not read of letter.eml")).to_contain_text("photo.png")
    viewer = console.person("bob")
    viewer.goto(f"/sessions/{session_id}")
    expect(viewer.get_by_role("table", name="Attachments of this session")).to_contain_text("letter.eml")
