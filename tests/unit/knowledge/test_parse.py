from typing import Any

import pytest

from flotilla.contracts.errors import Invalid
from flotilla.knowledge import visibility
from flotilla.knowledge.documents import TextBlock, UploadedDocument
from flotilla.knowledge.parse import parse_document
from flotilla.knowledge.parse_html import parse_html
from flotilla.knowledge.parse_markdown import parse_markdown
from flotilla.knowledge.parse_plain import parse_plain


def texts(blocks: list[TextBlock]) -> list[str]:
    return [block.text for block in blocks]


def test_html_blocks_are_what_a_reader_sees() -> None:
    page = """<html><head><title>T</title><style>p{}</style></head><body>
      <nav>Home</nav><h1 id=top>Fees <a class="headerlink" href="#top">¶</a></h1>
      <p>Some <b>bold</b>\n text<br>here.</p><script>alert(1)</script>
      <ul><li>one</li><li>two<p>more</p></li></ul><div hidden>secret</div><footer>(c)</footer></body></html>"""
    parsed = parse_html(page)
    assert texts(parsed.blocks) == ["Fees", "Some bold text here.", "one", "two", "more"]
    assert parsed.blocks[0] == TextBlock("Fees", level=1, anchors=("top",))


def test_only_the_main_part_of_a_page_is_read() -> None:
    page = "<body><div>menu</div><div role=main><h2>A</h2><p>text</p></div><div>more menu</div></body>"
    assert texts(parse_html(page).blocks) == ["A", "text"]


ANSWER = f"<p>{'Fees are due in March. ' * 10}</p>"
LINKS = "".join(f"<li><a href=p{number}.html>Page {number}</a></li>" for number in range(5))


@pytest.mark.parametrize(
    ("navigation", "is_seen"),
    [
        (f"<div role=navigation>Related: {LINKS}</div>", False),
        (f"<div id=tocframe><ul>{LINKS}</ul></div>", False),
        (f'<table class="nav_table"><tr><td>[{LINKS}]</table>', False),
        (f"<ul>{LINKS}</ul>", True),
        (f"<ul class=vocabulary>{LINKS}</ul>", True),
        ("<div class=toc><p>Everything in this part was written by <a href=eve.html>Eve</a>.</p></div>", True),
        ("<div class=toc></div><p>Page 1</p>", True),
    ],
)
def test_what_a_page_calls_navigation_is_none_of_its_text_if_it_is_links(navigation: str, is_seen: bool) -> None:
    found = texts(parse_html(f"<h1>Fees</h1>{ANSWER}{navigation}").blocks)
    assert found[:2] == ["Fees", ("Fees are due in March. " * 10).strip()]
    assert (len(found) > 2) == is_seen


def test_of_a_page_that_is_a_table_of_contents_the_links_are_read() -> None:
    assert "Page 3" in texts(parse_html(f"<h1>Contents</h1><div class=toc><ul>{LINKS}</ul></div>").blocks)


def test_thousands_of_nested_tables_of_contents_are_read_in_a_moment() -> None:
    page = "<div class=toc>" * 5_000 + "deep" * 2_000 + "</div>" * 5_000
    assert "".join(texts(parse_html(page).blocks)) == "deep" * 2_000


def test_code_keeps_its_lines_and_a_table_row_is_one_block() -> None:
    page = "<pre>if x:\n\treturn\n</pre><table><tr><th>a</th><th>b</th></tr><tr><td>1<td>2</tr></table>"
    assert texts(parse_html(page).blocks) == ["if x:\n        return", "a | b", "1 | 2"]


def test_a_defined_term_leads_to_its_definition() -> None:
    parsed = parse_html("<dl><dt id=os.abort>os.abort()</dt><dd>Ends the process.</dd></dl>")
    assert parsed.blocks == [TextBlock("os.abort()", leads=True, anchors=("os.abort",)), TextBlock("Ends the process.")]


@pytest.mark.parametrize(
    ("page", "title"),
    [
        ("<title>T</title><h2>H</h2>", "H"),
        ("<title> The\n T </title><p>x</p>", "The T"),
        ("<p>x</p>", ""),
    ],
)
def test_a_page_is_named_by_its_first_heading_else_its_title(page: str, title: str) -> None:
    assert parse_html(page).title == title


def test_ten_thousand_nested_elements_are_read() -> None:
    assert texts(parse_html("<div>" * 10_000 + "deep" + "</div>" * 10_000).blocks) == ["deep"]


def test_markdown_blocks_are_without_marks() -> None:
    document = (
        "# A *title*\n\nSome `code` and a [link](http://x/).\nSame line.\n\n- one\n- two\n\n"
        "```python\nx = 1\n\ny = 2\n```\n\n| a | b |\n|---|---|\n| 1 | 2 |\n\n"
        "<div>raw <b>html</b></div>\n\n![alt](x.png)\n"
    )
    parsed = parse_markdown(document)
    assert texts(parsed.blocks) == [
        "A title",
        "Some code and a link. Same line.",
        "one",
        "two",
        "x = 1\n\ny = 2",
        "a | b",
        "1 | 2",
        "raw html",
        "alt",
    ]
    assert parsed.title == "A title"
    assert [block.level for block in parsed.blocks] == [1] + [0] * 8


def test_markdown_front_matter_names_the_document_and_is_not_text() -> None:
    parsed = parse_markdown('---\ntitle: "Refunds"\ndraft: yes\n---\n# Other\n\ntext\n')
    assert parsed.title == "Refunds"
    assert texts(parsed.blocks) == ["Other", "text"]


def test_plain_text_is_cut_at_blank_lines() -> None:
    assert texts(parse_plain("one\ntwo\n\n \n\nthree\n\fpage two\n\n").blocks) == ["one\ntwo", "three\n\fpage two"]


@pytest.mark.parametrize("content", [b"<script>1</script>", b"<!-- nothing -->"])
def test_a_document_without_text_is_refused(content: bytes) -> None:
    with pytest.raises(Invalid, match="no text"):
        parse_document(UploadedDocument(uri="a.html", content=content))


def test_elements_within_each_other_that_are_named_navigation_are_not_each_read_as_a_whole(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    read = 0

    def counted(node: Any) -> str:
        nonlocal read
        text = words(node)
        read += len(text)
        return text

    words = visibility._words
    monkeypatch.setattr(visibility, "_words", counted)
    page = "".join(f'<p>words of a page {n} <a href="x">and a link</a></p>' for n in range(500))
    nested = f"<html><body>{'<div class=nav>' * 90}{page}{'</div>' * 90}</body></html>"
    parsed = parse_html(nested)
    assert "words of a page 499 and a link" in "\n".join(block.text for block in parsed.blocks)
    assert read < 10 * len(page)
