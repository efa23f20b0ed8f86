"""PDF, Word, PowerPoint, Excel, CSV and mail: what a reader sees is indexed, and a passage knows where it is."""

from collections.abc import Callable
from email.message import EmailMessage
from io import BytesIO
from typing import Any
from zipfile import ZIP_DEFLATED, ZipFile

import docx
import openpyxl
import pptx
import pytest
from docx.oxml import parse_xml
from pypdf import PdfReader, PdfWriter
from pypdf.annotations import FreeText
from pypdf.generic import ArrayObject, DictionaryObject, NameObject, TextStringObject
from reportlab.pdfgen.canvas import Canvas

from flotilla.contracts.errors import Invalid
from flotilla.knowledge.documents import ParsedDocument, UploadedDocument
from flotilla.knowledge.kinds import CSV, DOCX, HTML, MAIL, PDF, PPTX, XLSX
from flotilla.knowledge.parse import parse_document
from flotilla.knowledge.parse_xlsx import _lacking
from flotilla.knowledge.split import split_into_passages
from tests.support.work import assert_linear

W = 'xmlns:w="http://schemas.openxmlformats.org/wordprocessingml/2006/main"'
HOT = "<w:p><w:r><w:t>Hot steam.</w:t></w:r></w:p>"


def saved(document: Any) -> bytes:
    stream = BytesIO()
    document.save(stream)
    return stream.getvalue()


def pdf(*pages: list[str], password: str = "", owner: str = "") -> bytes:
    stream = BytesIO()
    canvas = Canvas(stream)
    for lines in pages:
        for number, line in enumerate(lines):
            canvas.drawString(72, 780 - 14 * number, line)
        canvas.showPage()
    canvas.save()
    if not (password or owner):
        return stream.getvalue()
    writer = PdfWriter(clone_from=PdfReader(stream))
    writer.encrypt(password, owner or None, algorithm="AES-256")
    return saved_by(writer.write)


def saved_by(write: Callable[[BytesIO], object]) -> bytes:
    stream = BytesIO()
    write(stream)
    return stream.getvalue()


def word() -> bytes:
    document = docx.Document()
    document.add_heading("Harbour", 1)
    document.add_paragraph("The crane lifts nine tonnes.")
    document.add_heading("Night", 2)
    document.add_paragraph("After ten the gate is locked.")
    table = document.add_table(2, 2)
    for cell, text in zip(table._cells, ("Name", "Role", "Odalys", "Pilot"), strict=True):
        cell.text = text
    return saved(document)


def word_with(xml: str) -> str:
    document = docx.Document()
    document.add_paragraph("First.")
    document.element.body.insert(1, parse_xml(xml))
    return text_of(saved(document), "a.docx")


def slides() -> bytes:
    deck = pptx.Presentation()
    for number, (title, text) in enumerate(
        (("Tides", "High water at six."), ("Ferries", "The ferry carries bicycles."))
    ):
        slide = deck.slides.add_slide(deck.slide_layouts[1])
        slide.shapes.title.text = title
        slide.placeholders[1].text = text
        slide.notes_slide.notes_text_frame.text = f"Say number {number}."
    table = deck.slides[1].shapes.add_table(2, 2, 0, 0, 100, 100).table
    for row, column, text in ((0, 0, "Boat"), (0, 1, "Seats"), (1, 0, "Marlin"), (1, 1, "40")):
        table.cell(row, column).text = text
    return saved(deck)


def workbook(**sheets: list[list[Any]]) -> bytes:
    book = openpyxl.Workbook()
    book.remove(book.active)  # type: ignore[arg-type]
    for title, rows in sheets.items():
        sheet = book.create_sheet(title)
        for row in rows:
            sheet.append(row)
        if title.startswith("Hidden"):
            sheet.sheet_state = "hidden"
        for cell in (cell for row in sheet.iter_rows() for cell in row if isinstance(cell.value, float)):
            cell.number_format = "0%"
    return saved(book)


PEOPLE: list[list[Any]] = [["Name", "Role", "Share"], ["Bertrand", "Cook", 0.15], ["Odalys", "Pilot", 0.5]]


def mail(*attached: tuple[str, str, bytes], text: str = "The pilot boards at dawn.", html: str = "") -> EmailMessage:
    message = EmailMessage()
    message["Subject"] = "Pilot for the Marlin"
    message["From"] = "Odalys <odalys@harbour.example>"
    message["To"] = "pilots@harbour.example"
    message.set_content(text)
    if html:
        message.add_alternative(html, subtype="html")
    for name, kind, content in attached:
        main, sub = kind.split("/")
        message.add_attachment(content, maintype=main, subtype=sub, filename=name)
    return message


def parsed(content: bytes, uri: str, media_type: str = "") -> tuple[str, ParsedDocument]:
    return parse_document(UploadedDocument(uri=uri, content=content, media_type=media_type))


def text_of(content: bytes, uri: str) -> str:
    return split_into_passages(parsed(content, uri)[1].blocks).text


def places(content: bytes, uri: str) -> list[tuple[str, str]]:
    return [(piece.place, piece.text) for piece in split_into_passages(parsed(content, uri)[1].blocks).pieces]


def test_a_passage_of_a_pdf_knows_its_page() -> None:
    content = pdf(["The crane lifts nine tonnes."], ["x" * 80] * 12, ["The gate is locked af-", "ter ten."])
    found = places(content, "a.pdf")
    assert found[0][0].startswith("page")
    assert found[-1] == ("page 3", found[-1][1])
    assert "locked after ten." in found[-1][1]
    assert parsed(content, "a.pdf")[0] == PDF


def test_a_passage_over_two_pages_names_both() -> None:
    assert places(pdf(["One."], ["Two."]), "a.pdf") == [("pages 1\u20132", "One.\n\nTwo.")]


def test_pages_without_text_are_named_and_a_scan_is_refused() -> None:
    assert parsed(pdf(["One."], [], ["Three."], []), "a.pdf")[1].skipped == ("pages without text: 2, 4",)
    with pytest.raises(Invalid, match="scans"):
        parsed(pdf([], []), "a.pdf")


def test_a_pdf_that_needs_a_password_is_refused_and_one_that_only_forbids_printing_is_read() -> None:
    with pytest.raises(Invalid, match="password"):
        parsed(pdf(["One."], password="secret"), "a.pdf")
    assert text_of(pdf(["One."], owner="secret"), "a.pdf") == "One."


def test_what_was_filled_into_a_form_or_written_on_a_page_is_text() -> None:
    stream = BytesIO()
    canvas = Canvas(stream)
    canvas.drawString(72, 780, "Name:")
    canvas.acroForm.textfield(name="n", tooltip="Full name", value="Odalys", x=120, y=770)
    canvas.acroForm.checkbox(name="c", checked=True, x=120, y=700)
    canvas.showPage()
    canvas.save()
    writer = PdfWriter(clone_from=PdfReader(stream))
    writer.add_annotation(0, FreeText(text="Approved on Monday.", rect=(50, 550, 200, 650)))
    assert text_of(saved_by(writer.write), "a.pdf") == "Name:\n\nFull name: Odalys\n\nApproved on Monday."


def test_a_page_whose_fonts_say_no_characters_is_named_and_not_stored_as_noise() -> None:
    writer = PdfWriter(clone_from=PdfReader(BytesIO(pdf(["Readable."], ["Noise."]))))
    order = DictionaryObject({NameObject("/Ordering"): TextStringObject("Identity")})
    inner = DictionaryObject({NameObject("/Subtype"): NameObject("/CIDFontType2"), NameObject("/CIDSystemInfo"): order})
    font = {
        "/Type": NameObject("/Font"),
        "/Subtype": NameObject("/Type0"),
        "/Encoding": NameObject("/Identity-H"),
        "/DescendantFonts": ArrayObject([inner]),
    }
    only = DictionaryObject({NameObject("/F1"): DictionaryObject({NameObject(k): v for k, v in font.items()})})
    writer.pages[1][NameObject("/Resources")] = DictionaryObject({NameObject("/Font"): only})
    content = saved_by(writer.write)
    assert text_of(content, "a.pdf") == "Readable."
    assert parsed(content, "a.pdf")[1].skipped == ("pages whose fonts do not say which characters they show: 2",)
    writer.remove_page(0)
    with pytest.raises(Invalid, match=r"do not say which characters .* \(OCR\)"):
        parsed(saved_by(writer.write), "a.pdf")


@pytest.mark.parametrize("hyphen", ["-", "\u00ad"])
def test_a_word_that_is_cut_at_the_end_of_a_line_of_a_pdf_is_whole(hyphen: str) -> None:
    assert "Reisekosten steigen" in text_of(pdf([f"Die Reise{hyphen}", "kosten steigen weiter."]), "a.pdf")


def test_a_word_document_has_its_headings_and_tables() -> None:
    media_type, document = parsed(word(), "a.docx")
    assert (media_type, document.title) == (DOCX, "Harbour")
    pieces = split_into_passages(document.blocks).pieces
    assert [piece.heading.split(" ")[-1] for piece in pieces] == ["Harbour", "Night"]
    assert pieces[1].text.endswith("Name | Role\n\nOdalys | Pilot")


@pytest.mark.parametrize(
    "xml",
    [
        f"<w:p {W}><w:ins><w:r><w:t>Hot steam.</w:t></w:r></w:ins></w:p>",
        f"<w:sdt {W}><w:sdtContent>{HOT}</w:sdtContent></w:sdt>",
        f"<w:p {W}><w:r><w:pict><w:txbxContent>{HOT}</w:txbxContent></w:pict></w:r></w:p>",
        f"<w:p {W}><w:hyperlink><w:r><w:t>Hot steam.</w:t></w:r></w:hyperlink></w:p>",
        f"<w:p {W}><w:r><w:t>Hot</w:t><w:br/><w:t>steam.</w:t></w:r></w:p>",
        f"<w:p {W}><w:r><w:t>Ho</w:t></w:r><w:r><w:t>t steam.</w:t></w:r></w:p>",
        f"<w:p {W}><w:fldSimple><w:r><w:t>Hot steam.</w:t></w:r></w:fldSimple></w:p>",
        f"<w:tbl {W}><w:tr><w:tc><w:tbl><w:tr><w:tc>{HOT}</w:tc></w:tr></w:tbl></w:tc></w:tr></w:tbl>",
        f"<w:p {W}><w:smartTag><w:r><w:t>Hot steam.</w:t></w:r></w:smartTag></w:p>",
        f'<w:p {W} xmlns:wp="urn:x"><w:r><w:drawing><wp:docPr descr="Hot steam."/></w:drawing></w:r></w:p>',
        f'<w:p {W} xmlns:v="urn:x"><w:r><w:pict><v:textpath string="Hot steam."/></w:pict></w:r></w:p>',
    ],
)
def test_all_that_a_reader_sees_of_a_word_document_is_text(xml: str) -> None:
    assert "Hot steam." in word_with(xml)


@pytest.mark.parametrize(
    "xml",
    [
        f"<w:p {W}><w:del><w:r><w:delText>secret</w:delText></w:r></w:del></w:p>",
        f"<w:p {W}><w:moveFrom><w:r><w:t>secret</w:t></w:r></w:moveFrom></w:p>",
        f"<w:p {W}><w:r><w:rPr><w:vanish/></w:rPr><w:t>secret</w:t></w:r></w:p>",
        f"<w:p {W}><w:r><w:instrText>secret</w:instrText></w:r></w:p>",
        f"<w:tbl {W}><w:tr><w:trPr><w:del/></w:trPr><w:tc>{HOT}</w:tc></w:tr></w:tbl>",
    ],
)
def test_what_is_deleted_or_hidden_is_not_text(xml: str) -> None:
    assert word_with(xml) == "First."


CHART = '<c:chart xmlns:c="urn:c" xmlns:a="urn:a"><a:p><a:r><a:t>Catch</a:t></a:r></a:p><c:v>East</c:v></c:chart>'


@pytest.mark.parametrize(
    ("kind", "body", "seen", "skipped"),
    [
        ("chart", CHART, "First.\n\nCatch | East", ()),
        ("comments", f"<w:comments {W}>{HOT}</w:comments>", "First.", ("comments",)),
        ("aFChunk", "<p>Hot steam.", "First.", ("text that is embedded in another format",)),
    ],
)
def test_charts_of_a_word_document_are_read_and_what_is_not_is_named(
    kind: str, body: str, seen: str, skipped: tuple[str, ...]
) -> None:
    related = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"
    entry = f'<Relationship Id="rId99" Type="{related}/{kind}" Target="more.xml"/></Relationships>'.encode()
    document = docx.Document()
    document.add_paragraph("First.")
    content = changed(saved(document), "word/_rels/document.xml.rels", b"</Relationships>", entry)
    with_part = BytesIO(content)
    with ZipFile(with_part, "a") as archive:
        archive.writestr("word/more.xml", body)
    assert text_of(with_part.getvalue(), "a.docx") == seen
    assert parsed(with_part.getvalue(), "a.docx")[1].skipped == skipped


def test_slides_are_places_with_titles_tables_and_notes() -> None:
    media_type, document = parsed(slides(), "a.pptx")
    found = [(piece.place, piece.heading, piece.text) for piece in split_into_passages(document.blocks).pieces]
    assert (media_type, document.title, [place for place, _, _ in found]) == (PPTX, "Tides", ["slide 1", "slide 2"])
    assert found[0] == ("slide 1", "Tides", "Tides\n\nHigh water at six.\n\nSay number 0.")
    assert "Marlin | 40" in found[1][2]


def test_slides_without_titles_are_not_mixed() -> None:
    deck = pptx.Presentation()
    for text in ("High water at six.", "The ferry carries bicycles."):
        slide = deck.slides.add_slide(deck.slide_layouts[6])
        slide.shapes.add_textbox(0, 0, 100, 100).text_frame.text = text
    assert places(saved(deck), "a.pptx") == [
        ("slide 1", "High water at six."),
        ("slide 2", "The ferry carries bicycles."),
    ]


def test_a_hidden_slide_is_named_and_not_read() -> None:
    deck = pptx.Presentation(BytesIO(slides()))
    deck.slides[0]._element.set("show", "0")
    document = parsed(saved(deck), "a.pptx")[1]
    assert document.skipped == ("slide 1: is hidden",)
    assert {str(block.place) for block in document.blocks} == {"slide 2"}


def test_rows_of_a_sheet_carry_the_names_of_their_columns() -> None:
    content = workbook(Crew=PEOPLE, Hidden=[["secret"]], Empty=[])
    document = parsed(content, "a.xlsx")[1]
    assert document.skipped == ("sheet Hidden: is hidden",)
    found = places(content, "a.xlsx")
    assert found[0][0] == "sheet Crew, rows 1\u20133"
    assert "Name: Odalys | Role: Pilot | Share: 50%" in found[0][1]


@pytest.mark.parametrize("said", [b'ref="A1:A1"', b'ref="A1:XFD1048576"'])
def test_a_sheet_is_read_whatever_size_it_says_it_has(said: bytes) -> None:
    content = changed(workbook(Crew=PEOPLE), "xl/worksheets/sheet1.xml", b'ref="A1:C3"', said)
    assert "Name: Odalys | Role: Pilot | Share: 50%" in text_of(content, "a.xlsx")


def test_a_formula_stands_for_a_value_that_no_program_has_computed() -> None:
    content = workbook(Prices=[["Item", "Net", "Tax"], ["Crane", 10, "=B2*0.2"], ["Tug", 20, 4]])
    assert "Item: Crane | Net: 10 | Tax: =B2*0.2" in text_of(content, "a.xlsx")
    assert "Item: Tug | Net: 20 | Tax: 4" in text_of(content, "a.xlsx")
    computed = changed(content, "xl/worksheets/sheet1.xml", b"</f><v></v>", b"</f><v>2</v>")
    assert "Item: Crane | Net: 10 | Tax: 2" in text_of(computed, "a.xlsx")


def test_looking_for_formulas_without_a_value_takes_as_long_as_the_sheet_is() -> None:
    assert_linear(lambda text: _lacking(BytesIO(text.encode())), lambda size: f"<f></f>{' ' * size}<v>1</v>", 10_000)


@pytest.mark.parametrize("separator", [",", ";", "\t", "|"])
def test_rows_of_values_are_read_whatever_separates_them(separator: str) -> None:
    rows = (("Name", "Role"), ("Odalys", '"Pilot, first class; | harbour"'), ("Bertrand", "Cook"))
    content = "\r\n".join(separator.join(row) for row in rows).encode()
    assert "Name: Odalys | Role: Pilot, first class; | harbour" in text_of(content, "a.csv")
    assert parsed(content, "a.csv")[0] == CSV
    assert places(content, "a.csv")[0][0] == "rows 1\u20133"


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"sep=;\r\na;b\r\nOdalys;Pilot", "a: Odalys | b: Pilot"),
        ("Name,Stadt\nJ\u00fcrgen,K\u00f6ln".encode("cp1252"), "Name: J\u00fcrgen | Stadt: K\u00f6ln"),
        (b"Odalys,9\nBertrand,7", "Bertrand | 7"),
        (b"one column\nof words", "of words"),
        (b'a,b\n"two\nlines",x', "a: two lines | b: x"),
        (b"a,b\n1,2,3", "a: 1 | b: 2 | 3"),
        (b"Boat;2024;2025\nMarlin;12;15", "Boat: Marlin | 2024: 12 | 2025: 15"),
        (b"Marlin;2024;12\nPerch;2025;15", "Perch | 2025 | 15"),
        (b"Boat;30 days;1 year\nMarlin;12,50;90", "Boat: Marlin | 30 days: 12,50 | 1 year: 90"),
        (b"Ann;12 Main St\nBert;13 Oak St", "Bert | 13 Oak St"),
    ],
)
def test_odd_tables_lose_nothing(content: bytes, expected: str) -> None:
    assert expected in text_of(content, "a.csv")


def test_mail_is_its_heads_its_text_and_its_attachments() -> None:
    attached = (("rates.pdf", PDF, pdf(["Pilotage costs nine euros."])), ("logo.png", "image/png", b"\x89PNG"))
    content = mail(*attached).as_bytes()
    media_type, document = parsed(content, "a.eml")
    assert (media_type, document.title) == (MAIL, "Pilot for the Marlin")
    text = split_into_passages(document.blocks).text
    assert "From: Odalys <odalys@harbour.example>" in text
    assert "The pilot boards at dawn." in text
    assert ("attachment rates.pdf, page 1", "Pilotage costs nine euros.") in places(content, "a.eml")
    assert len(document.skipped) == 1
    assert document.skipped[0].startswith("attachment logo.png: ")


def test_of_two_forms_of_a_message_one_is_read() -> None:
    both = mail(html="<p>The pilot boards at <b>dawn</b>.</p>").as_bytes()
    assert text_of(both, "a.eml").count("boards") == 1
    only = mail(text="", html="<p>The pilot boards at <b>dawn</b>.</p>").as_bytes()
    assert "boards at dawn." in text_of(only, "a.eml")


def test_a_plain_form_that_only_says_that_there_is_a_page_is_not_read() -> None:
    page = f"<p>The pilot boards at dawn. {'And mind the buoy. ' * 9}</p>"
    both = mail(text="Your program shows no HTML.", html=page).as_bytes()
    assert "boards at dawn." in text_of(both, "a.eml")
    assert "Your program" not in text_of(both, "a.eml")


def test_what_is_attached_to_a_form_that_is_not_read_is_read() -> None:
    message = mail(html="<p>The pilot boards at dawn.</p>")
    form = list(message.iter_parts())[1]
    assert isinstance(form, EmailMessage)
    form.make_mixed()
    form.add_attachment(b"Boat,Rate\nMarlin,9", maintype="text", subtype="csv", filename="rates.csv")
    text = text_of(message.as_bytes(), "a.eml")
    assert text.count("boards at dawn.") == 1
    assert "Boat: Marlin | Rate: 9" in text


@pytest.mark.parametrize(
    ("charset", "codec"),
    [("unknown-8bit", "utf-8"), ("utf-8", "latin-1"), ("us-ascii", "cp1252"), ("x-nope", "cp1252")],
)
def test_a_message_is_read_whatever_encoding_its_program_named(charset: str, codec: str) -> None:
    head = f"Subject: Pilot\nContent-Type: text/plain; charset={charset}\n\n".encode()
    assert text_of(head + "Der Lotse für Köln.".encode(codec), "a.eml").endswith("Der Lotse für Köln.")


def test_a_forwarded_message_is_read() -> None:
    outer = mail(text="See below.")
    outer.add_attachment(mail(text="The buoy is green."))
    assert "The buoy is green." in text_of(outer.as_bytes(), "a.eml")


@pytest.mark.parametrize(
    ("content", "uri", "media_type"),
    [
        (pdf(["One."]), "a.docx", PDF),
        (pdf(["One."]), "a.md", PDF),
        (word(), "a.pdf", DOCX),
        (word(), "a.txt", DOCX),
        (slides(), "a.xlsx", PPTX),
        (workbook(Crew=PEOPLE), "a.csv", XLSX),
        (b"<!DOCTYPE html><p>One.", "a.xlsx", HTML),
    ],
)
def test_the_content_decides_whatever_the_name_says(content: bytes, uri: str, media_type: str) -> None:
    assert parsed(content, uri)[0] == media_type


def zipped(**parts: bytes) -> bytes:
    stream = BytesIO()
    with ZipFile(stream, "w", ZIP_DEFLATED) as archive:
        for name, content in parts.items():
            archive.writestr(name, content)
    return stream.getvalue()


def changed(content: bytes, part: str, old: bytes, new: bytes) -> bytes:
    with ZipFile(BytesIO(content)) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    assert old in parts[part]
    parts[part] = parts[part].replace(old, new, 1)
    return zipped(**parts)


LAUGHS = b'<!DOCTYPE x [<!ENTITY a "ha"><!ENTITY b "&a;&a;">]>'
OUTSIDE = b'<!DOCTYPE x [<!ENTITY a SYSTEM "file:///etc/passwd">]>'


def word_with_entities(declared: bytes) -> bytes:
    return changed(word(), "word/document.xml", b"<w:document", declared + b"<w:document")


def sheet_with_entities(declared: bytes) -> bytes:
    return changed(workbook(Crew=PEOPLE), "xl/worksheets/sheet1.xml", b"<worksheet", declared + b"<worksheet")


@pytest.mark.parametrize(
    ("content", "uri", "reason"),
    [
        (word_with_entities(LAUGHS), "a.docx", "can't be read"),
        (word_with_entities(OUTSIDE), "a.docx", "can't be read"),
        (sheet_with_entities(LAUGHS), "a.xlsx", "can't be read"),
        (word()[:2000], "a.docx", "damaged"),
        (pdf(["One."])[:300], "a.pdf", "can't be read"),
        (b"Just words.", "a.pdf", "not what its name"),
        (b"Just words.", "a.docx", "not what its name"),
        (zipped(a=b"x"), "a.docx", "ZIP archive"),
        (zipped(a=b"x"), "a.md", "ZIP archive"),
        (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + b"\0" * 600, "a.doc", "old binary format"),
        (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + "EncryptedPackage".encode("utf-16-le"), "a.docx", "password"),
        (saved(docx.Document()), "a.docx", "no text"),
        (workbook(Empty=[]), "a.xlsx", "no text"),
        (b"", "a.pdf", "empty"),
    ],
)
def test_what_cannot_be_read_is_refused_with_the_reason(content: bytes, uri: str, reason: str) -> None:
    with pytest.raises(Invalid, match=reason) as refused:
        parsed(content, uri)
    assert str(refused.value).startswith(f"{uri}: ")


def test_an_archive_that_unpacks_to_gigabytes_is_refused_before_it_is() -> None:
    stream = BytesIO()
    with ZipFile(stream, "w", ZIP_DEFLATED) as archive, ZipFile(BytesIO(word())) as innocent:
        for name in innocent.namelist():
            archive.writestr(name, innocent.read(name))
        with archive.open("word/media/zeros", "w") as zeros:
            for _ in range(600):
                zeros.write(b"\0" * 1024 * 1024)
    with pytest.raises(Invalid, match="unpacks to"):
        parsed(stream.getvalue(), "a.docx")


def test_messages_in_messages_end() -> None:
    content = mail(text="The innermost.").as_bytes()
    for _ in range(40):
        content = b"Subject: x\r\nContent-Type: message/rfc822\r\n\r\n" + content
    with pytest.raises(Invalid, match="within each other"):
        parsed(content, "a.eml")
    packed = mail(text="The innermost.").as_bytes()
    for number in range(6):
        packed = mail((f"{number}.eml", "application/octet-stream", packed)).as_bytes()
    assert any("is not read" in one for one in parsed(packed, "a.eml")[1].skipped)
