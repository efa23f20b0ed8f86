"""PowerPoint presentations (PresentationML, DrawingML): slide by slide, with tables, charts, diagrams and notes."""

from collections.abc import Iterator
from dataclasses import replace
from xml.etree.ElementTree import Element

from flotilla.knowledge.documents import BlockPlace, ParsedDocument, TextBlock
from flotilla.knowledge.package import (
    DRAWN,
    OfficePackage,
    drawn_text,
    find_attribute,
    find_child,
    local_name,
    text_of_paragraphs,
)

_TITLES = frozenset(("title", "ctrTitle"))
_FURNITURE = frozenset(("sldNum", "dt", "ftr", "hdr", "sldImg"))
"""Placeholders of what is on every slide."""
_UNSEEN = frozenset(("Fallback",))


def parse_pptx(package: OfficePackage) -> ParsedDocument:
    """Blocks of the slides that are shown; hidden ones are named among what was skipped."""
    main = package.main or ""
    slides = {one.id: one.target for one in package.related_parts(main) if one.kind == "slide"}
    listed = find_child(package.xml(main), "sldIdLst")
    blocks: list[TextBlock] = []
    skipped: list[str] = []
    for number, entry in enumerate(listed if listed is not None else (), 1):
        part = slides.get(_relation(entry), "")
        root = package.xml(part)
        if root.get("show") in ("0", "false"):
            skipped.append(f"slide {number}: is hidden")
            continue
        place = BlockPlace(f"slide {number}")
        blocks += [replace(block, place=place) for block in _slide(package, part, root)]
    return ParsedDocument(blocks, next((block.text for block in blocks if block.level), ""), tuple(skipped))


def _relation(entry: Element) -> str:
    """The relationship's id, which has a namespace; `id` without one is the slide's number."""
    return next((value for name, value in entry.attrib.items() if name.endswith("}id")), "")


def _slide(package: OfficePackage, part: str, root: Element) -> Iterator[TextBlock]:
    yield from _title_first([block for block in _shapes(root) if block.text])
    for one in package.related_parts(part):
        if one.kind in DRAWN:
            yield TextBlock(drawn_text(package.xml(one.target)))
        elif one.kind == "notesSlide":
            yield from (replace(block, level=0) for block in _shapes(package.xml(one.target)) if block.text)


def _title_first(blocks: list[TextBlock]) -> list[TextBlock]:
    return sorted(blocks, key=lambda block: not block.level)


def _shapes(element: Element) -> Iterator[TextBlock]:
    kind = _placeholder(element)
    if kind in _FURNITURE:
        return
    for inner in element:
        name = local_name(inner)
        if name == "p":
            yield TextBlock(text_of_paragraphs(inner))
        elif name == "tr":
            yield TextBlock(" | ".join(text_of_paragraphs(cell) for cell in inner if local_name(cell) == "tc"))
        elif name == "cNvPr":
            yield TextBlock(inner.get("descr", "").strip())
        elif name not in _UNSEEN:
            yield from _within(inner, kind)


def _within(element: Element, kind: str) -> Iterator[TextBlock]:
    for block in _shapes(element):
        yield replace(block, level=1) if kind in _TITLES and block.text else block


def _placeholder(shape: Element) -> str:
    mark = find_child(shape, "nvSpPr", "nvPr", "ph")
    return find_attribute(mark, "type") if mark is not None else ""
