"""Documents as they are found on the web and in repositories: what a reader sees of each is what is indexed."""

import pytest

from flotilla.contracts.errors import Invalid
from flotilla.knowledge.documents import UploadedDocument
from flotilla.knowledge.parse import parse_document
from flotilla.knowledge.split import split_into_passages


def read(content: str | bytes, uri: str = "a.md", media_type: str = "") -> str:
    _, parsed = parse_document(
        UploadedDocument(
            uri=uri, content=content.encode() if isinstance(content, str) else content, media_type=media_type
        )
    )
    return split_into_passages(parsed.blocks).text


def title(content: str) -> str:
    return parse_document(UploadedDocument(uri="a.md", content=content.encode()))[1].title


@pytest.mark.parametrize(
    "cell",
    [
        "Ann<br>Bert<br/>Cleo",
        "Ann<br >Bert<BR />Cleo",
        "Ann<div>Bert</div>Cleo",
        "Ann <b>Bert</b> Cleo",
        "Ann<x-row>Bert</x-row>Cleo",
    ],
)
def test_words_on_both_sides_of_a_tag_stay_apart(cell: str) -> None:
    assert read(f"| a | b |\n|---|---|\n| 1 | {cell} |\n").endswith("1 | Ann Bert Cleo")
    assert read(cell) == "Ann Bert Cleo"


@pytest.mark.parametrize(
    "row", ["<td><p>Ann</p><p>Bert</p>", "<td><ul><li>Ann<li>Bert</ul>", "<td>Ann<br>Bert", "<td><div>Ann</div>Bert"]
)
def test_blocks_in_a_cell_stay_apart(row: str) -> None:
    assert read(f"<table><tr>{row}<td>2</table>", "a.html") == "Ann Bert | 2"


@pytest.mark.parametrize(
    "table",
    [
        "<table>\n\n<tr><td>Ann</td><td>Bert</td></tr>\n\n</table>",
        "<table>\n<tr>\n\n<td>Ann</td>\n<td>Bert</td>\n\n</tr></table>",
        "<table>\n\n</thead><tr><th>Ann</th><th>Bert</th></tr>\n\n</table>",
    ],
)
def test_cells_of_a_table_with_blank_lines_stay_apart(table: str) -> None:
    assert read(table) == "Ann | Bert"


@pytest.mark.parametrize("mark", ["<sup><a href=#n>1</a></sup>", "<a href=#n><sup>1</sup></a>"])
def test_the_mark_of_a_footnote_is_no_part_of_its_word(mark: str) -> None:
    assert read(f"<p>The timeout{mark} is long: 5 m<sup>2</sup>.", "a.html") == "The timeout 1 is long: 5 m2."


def test_how_characters_are_pronounced_does_not_cut_words() -> None:
    page = "<p><ruby>東<rp>(</rp><rt>とう</rt><rp>)</rp>京<rt>きょう</rt></ruby>の倉庫</p>"
    assert read(page, "a.html") == "東京の倉庫"


def test_a_tag_inside_a_word_does_not_cut_it() -> None:
    assert read("un<b>break</b>able H<sub>2</sub>O super<wbr>long") == "unbreakable H2O superlong"


@pytest.mark.parametrize(
    ("document", "text"),
    [
        ("---\ntitle: T\ntags: [a, b]\n---\n\nSeen.", "Seen."),
        ("---   \ntitle: T\n---\t\nSeen.", "Seen."),
        ("---\ntitle: T\nauthors:\n- a\n- b\n# note\ndescription: >\n  long\n  text\n...\nSeen.", "Seen."),
        ("---\ntitle: Ports: an overview\n---\nSeen.", "Seen."),
        ("---\r\nTitle: T\r\n---\r\nSeen.", "Seen."),
        ("\ufeff---\ntitle: T\n---\nSeen.", "Seen."),
        ('---\n"title": T\nog.image: "x: y"\n---\nSeen.', "Seen."),
        ("---\n---\nSeen.", "Seen."),
        ("+++\ntitle = 'T'\n[extra]\nsecret = 1\n+++\nSeen.", "Seen."),
        ("+++  \ndate = 2024-01-01\n+++  \n\nSeen.", "Seen."),
    ],
)
def test_front_matter_is_not_text(document: str, text: str) -> None:
    assert read(document) == text


@pytest.mark.parametrize(
    "document",
    [
        "---\n\nThe keys hang here.\n\n---\n\nThe rest.",
        "---\nThe keys hang here.\n---\nThe rest.",
        "---\nWarning: The keys hang here.\n---\nThe rest.",
        "---\nOpening hours: The keys hang here.\n\n---\nThe rest.",
        "---\n- The keys hang here.\n---\nThe rest.",
        "---\nThe keys hang here.\n\nThe rest.",
        "+++\nThe keys hang here.\n+++\nThe rest.",
        "---\nhttps://a.example/ The keys hang here.\n---\nThe rest.",
    ],
)
def test_text_between_rulers_is_text(document: str) -> None:
    text = read(document)
    assert "The keys hang here." in text
    assert "The rest." in text


@pytest.mark.parametrize(
    ("document", "named"),
    [
        ("---\ntitle: 'Ports'\n---\nx", "Ports"),
        ("---\ntitle: Ports: an overview\n---\nx", "Ports: an overview"),
        ("---\ntitle: >-\n  Ports\n  and piers\n---\nx", "Ports and piers"),
        ("---\ntitle: 2024\n---\nx", "2024"),
        ("---\ntitle: [a, b]\n---\n# Own\n", "Own"),
        ("---\ndraft: true\n---\n# Own\n", "Own"),
        ('+++\ntitle = "Ports"\n+++\n# Own\n', "Ports"),
        ("---\na: &a [x, x]\nb: &b [*a, *a]\nc: [*b, *b]\ntitle: Ports\n---\nx", "Ports"),
        ("---\ntitle: " + "[" * 5_000 + "\n---\n# Own\n", "[" * 5_000),
    ],
)
def test_front_matter_names_the_document(document: str, named: str) -> None:
    assert title(document) == named


ACCORDIONS = [
    "<h3><button aria-expanded=false aria-controls=a>How long?</button></h3><div id=a hidden><p>Nine days.</p></div>",
    "<h3><button>How long</button></h3><div hidden=until-found>Nine days.</div>",
    "<button class=accordion>How long does it take then</button><div class=panel>Nine days.</div>",
    "<button aria-expanded=false>How long</button><div role=region hidden>Nine days.</div>",
    "<button role=tab aria-controls=t>How long</button><div role=tabpanel id=t hidden>Nine days.</div>",
    "<a data-bs-target='#c' href=#>How long</a><div id=c hidden>Nine days.</div>",
    "<details><summary>How long</summary>Nine days.</details>",
]


@pytest.mark.parametrize("accordion", ACCORDIONS)
def test_what_a_click_opens_is_text(accordion: str) -> None:
    text = read(f"<main><h1>Help</h1>{accordion}</main>", "a.html")
    assert "How long" in text
    assert "Nine days." in text


def test_what_stays_hidden_and_the_names_of_commands_are_not_text() -> None:
    page = "<main><p>Seen.<button>Copy</button></p><div hidden>secret</div><nav>menu</nav></main><footer>(c)</footer>"
    assert read(page, "a.html") == "Seen."
    drawn = "<title>t</title><defs><text>d</text></defs><clipPath><text>c</text></clipPath><style>s</style>"
    assert read(f"<p>Seen.</p><svg>{drawn}</svg>", "a.html") == "Seen."


@pytest.mark.parametrize(
    "page",
    [
        "<main><p>Open.</p><aside>Hot steam.</aside></main>",
        "<p>Open.</p><aside class=sidebar><p>Hot steam.</p></aside>",
        "<p>Open.</p><h2>A</h2><p>Hot steam.</p><article>Related.</article>",
        "<body><main id=app></main><p>Open.</p><div>Hot steam.</div>",
        "<main>Loading</main><p>Open.</p><p>Hot steam. Mind your fingers, and wear gloves at all times.</p>",
        "<main><p>Open.</p></main><main><p>Hot steam.</p></main>",
        "<p>Open.</p><figure><img alt='Hot steam.' src=x.png></figure>",
        "<p>Open.</p><svg role=img aria-label='Hot steam.'><path d=M0></svg>",
        "<p>Open.</p><table><caption>Hot steam.</caption><tr><td>1</table>",
        "<p>Open.</p><figure><figcaption>Hot steam.</figcaption></figure>",
        "<p>Open.</p><blockquote>So<footer>Hot steam.</footer></blockquote>",
        "<p>Open.</p><math><mtext>Hot steam.</mtext></math>",
        "<p>Open.</p><svg><title>secret</title><g><text>Hot steam.</text></g></svg>",
        "<p>Open.</p><svg><text><tspan>Hot</tspan><tspan>steam.</tspan></text></svg>",
        "<p>Open.</p><svg><foreignObject><p>Hot steam.</p></foreignObject></svg>",
    ],
)
def test_all_that_a_reader_sees_of_a_page_is_text(page: str) -> None:
    text = read(page, "a.html")
    assert "Open." in text
    assert "Hot steam." in text


@pytest.mark.parametrize(
    "picture",
    [
        "![Hot *steam*](x.png)",
        "<img alt='Hot steam' src=x.png>",
        "[![Hot steam](x)](y)",
        "![Hot steam](data:image/png;base64,iVBOR)",
    ],
)
def test_the_alternative_text_of_a_picture_is_text(picture: str) -> None:
    assert read(f"See {picture} here") == "See Hot steam here"


def test_a_footnote_of_one_word_is_text() -> None:
    assert read("Low.[^1]\n\n[^1]: Confirmed\n").endswith("Confirmed")


@pytest.mark.parametrize(
    ("content", "media_type", "text"),
    [
        (b"<meta charset=iso-8859-1><p>\x80 40, \x93ja\x94", "", "€ 40, “ja”"),
        (b"<meta charset=ascii><p>\x80 40", "", "€ 40"),
        (b"<p>\x80 40", "text/html; charset=ISO-8859-1", "€ 40"),
        (b"<p>\x80 40", 'text/html; Charset = "latin1"', "€ 40"),
        (b"<p>\x80 40", "text/html", "€ 40"),
        (b"<!--" + b"x" * 5_000 + b"--><meta charset=windows-1251><p>\xe4\xe0", "", "да"),
        (b"<meta http-equiv=Content-Type content='text/html; charset=koi8-r'><p>\xc4\xc1", "", "да"),
        (b"<!-- <meta charset=koi8-r> --><meta charset=windows-1251><p>\xe4\xe0", "", "да"),
        (b"<?xml version='1.0' encoding='windows-1251'?><html><p>\xe4\xe0", "", "да"),
        (b"<meta charset=koi8-r><p>\xe4\xe0", "text/html; charset=windows-1251", "да"),
        (b"<meta charset=utf-16><p>plain", "", "plain"),
        (b"<p>plain even", "text/html; charset=utf-16", "plain even"),
        ("<p>Straße".encode("utf-16-be"), "text/html; charset=utf-16", "Straße"),
        ("<p>Straße".encode(), "text/html; charset=iso-8859-1", "Straße"),
        ("<meta charset=shift_jis><p>倉庫の鍵".encode(), "", "倉庫の鍵"),
        ("<p>да".encode(), "text/html; charset=windows-1251", "да"),
        ("<meta charset=x-sjis><p>倉庫の鍵".encode("cp932"), "", "倉庫の鍵"),
        ("<meta charset=gb2312><p>财务经理".encode("gbk"), "", "财务经理"),
        ("<meta charset=euc-kr><p>승인".encode("cp949"), "", "승인"),
        (b"<meta charset=punycode><p>plain", "", "plain"),
        (b"<meta charset=rot13><p>plain", "", "plain"),
        (b"<meta charset=utf-8><p>\x80 40 f\xfcr Gr\xfcn", "", "€ 40 für Grün"),
    ],
)
def test_a_page_is_read_in_the_encoding_that_a_browser_finds(content: bytes, media_type: str, text: str) -> None:
    assert read(content, "a.html", media_type) == text


@pytest.mark.parametrize(
    "codec",
    [
        "punycode",
        "rot13",
        "utf-7",
        "idna",
        "base64",
        "unicode_escape",
        "raw_unicode_escape",
        "hex",
        "zlib",
        "iso-2022-kr",
        "cp037",
    ],
)
def test_what_is_no_encoding_of_the_web_is_refused(codec: str) -> None:
    with pytest.raises(Invalid, match=f"'{codec}' is unknown"):
        read(b"plain", "a.txt", f"text/plain; charset={codec}")


@pytest.mark.parametrize(
    ("content", "media_type"),
    [
        ("Москва и Казань".encode("cp1251"), "text/plain; charset=iso-8859-1"),
        ("Москва и Казань".encode("koi8-r"), "text/plain"),
        ("倉庫の鍵は青い箱にあります".encode("euc-jp"), "text/plain"),
        ("Straße".encode("utf-16-le"), "text/plain; charset=iso-8859-1"),
        ("Straße".encode("utf-16-le"), "text/plain"),
        (b"caf\xe9", "text/plain; charset=utf-8"),
        (b"caf\x81", "text/plain"),
    ],
)
def test_text_that_is_not_in_its_encoding_is_refused_and_not_stored_as_garbage(content: bytes, media_type: str) -> None:
    with pytest.raises(Invalid, match=r"UTF-8|binary"):
        read(content, "a.txt", media_type)


@pytest.mark.parametrize(
    ("document", "text"),
    [
        ("Reise\u00adkosten\u00ader\u00adstattung", "Reisekostenerstattung"),
        ("Reise&shy;kosten", "Reisekosten"),
        ("Die Reise\u00ad kosten", "Die Reise kosten"),
        ("max\u200bRetry\u2060Count\ufeff", "maxRetryCount"),
        ("Ju\u0308rgen Cre\u0300me", "Jürgen Crème"),
        ("acct\u202e42\u202c \U000e0041x", "acct\u202e42\u202c x"),
        (
            "\U0001f9d1\u200d\U0001f692 \u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645",
            "\U0001f9d1\u200d\U0001f692 \u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645",
        ),
        ("\u1100\u1161\u11a8", "각"),
    ],
)
def test_text_is_composed_and_without_what_nobody_sees(document: str, text: str) -> None:
    assert read(document) == text
    assert read(f"<p>{document}", "a.html") == text


def test_a_word_that_a_soft_hyphen_cuts_at_the_end_of_a_line_is_whole() -> None:
    assert read("Die Reise\u00ad \n  kosten.", "a.txt") == "Die Reisekosten."
