"""Word documents (WordprocessingML): what is read on paper, content controls, insertions and text boxes included."""

from collections.abc import Iterable, Iterator
from xml.etree.ElementTree import Element

from flotilla.knowledge.documents import ParsedDocument, TextBlock
from flotilla.knowledge.package import DRAWN, OfficePackage, drawn_text, find_attribute, find_child, local_name

_UNSEEN = frozenset(
    ("del", "moveFrom", "Fallback", "instrText", "delText", "rt", "pPr", "tblPr", "trPr", "tcPr", "sectPr", "sdtPr")
)
"""Deletions, fields' formulas, the older form of a drawing, pronunciation, properties."""
_GAPS = frozenset(("tab", "br", "cr", "ptab"))
_SAID_BY = {"docPr": "descr", "textpath": "string"}
"""Pictures and decorated text, by the attribute that has their words."""
_BOX = "txbxContent"
_NOTES = ("footnotes", "endnotes")
_LEFT_OUT = {"comments": "comments", "aFChunk": "text that is embedded in another format"}
"""What a document may refer to that is not read, by the kind of the part."""
_LEVELS = 6


def parse_docx(package: OfficePackage) -> ParsedDocument:
    """Blocks of the text, then those of headers, footers and notes that are not in it already, and of drawings."""
    main = package.main or ""
    levels = _heading_levels(package, main)
    blocks = list(_blocks(package.xml(main), levels))
    seen = {block.text for block in blocks}
    for kind in ("header", "footer", *_NOTES):
        for root in package.related_roots(main, kind):
            more = [block for block in _blocks(root, {}) if block.text.strip() and block.text not in seen]
            seen.update(block.text for block in more)
            blocks += more
    related = package.related_parts(main)
    blocks += [TextBlock(drawn_text(package.xml(one.target))) for one in related if one.kind in DRAWN]
    skipped = dict.fromkeys(_LEFT_OUT[one.kind] for one in related if one.kind in _LEFT_OUT)
    return ParsedDocument(blocks, next((block.text for block in blocks if block.level), ""), tuple(skipped))


def _heading_levels(package: OfficePackage, main: str) -> dict[str, int]:
    """The level of each style that is a heading, or is based on one."""
    levels: dict[str, int] = {}
    based_on: dict[str, str] = {}
    for root in package.related_roots(main, "styles"):
        for style in root.iter():
            if local_name(style) != "style":
                continue
            name = find_attribute(style, "styleId")
            based_on[name] = _value(find_child(style, "basedOn"))
            level = _level_of(_value(find_child(style, "name")).lower()) or _outline(find_child(style, "pPr"))
            if level:
                levels[name] = level
    return {name: level for name in based_on if (level := _inherited(name, levels, based_on))}


def _inherited(name: str, levels: dict[str, int], based_on: dict[str, str]) -> int:
    seen: set[str] = set()
    while name and name not in seen:
        if name in levels:
            return levels[name]
        seen.add(name)
        name = based_on.get(name, "")
    return 0


def _level_of(name: str) -> int:
    if name == "title":
        return 1
    number = name.removeprefix("heading ")
    return int(number) if number != name and number in map(str, range(1, _LEVELS + 1)) else 0


def _outline(properties: Element | None) -> int:
    value = _value(find_child(properties, "outlineLvl"))
    return int(value) + 1 if value in map(str, range(_LEVELS)) else 0


def _value(element: Element | None) -> str:
    return find_attribute(element, "val") if element is not None else ""


def _blocks(root: Iterable[Element], levels: dict[str, int]) -> Iterator[TextBlock]:
    for element in root:
        name = local_name(element)
        if name == "p":
            properties = find_child(element, "pPr")
            level = _outline(properties) or levels.get(_value(find_child(properties, "pStyle")), 0)
            yield TextBlock(_text(element), level)
            for box in _boxes(element):
                yield from _blocks(box, levels)
        elif name == "tr":
            if find_child(element, "trPr", "del") is None:
                yield TextBlock(" | ".join(_cells(element)))
        elif name not in _UNSEEN:
            yield from _blocks(element, levels)


def _cells(row: Element) -> Iterator[str]:
    for element in row:
        name = local_name(element)
        if name == "tc":
            yield " ".join(block.text for block in _blocks(element, {}) if block.text)
        elif name not in _UNSEEN:
            yield from _cells(element)


def _boxes(element: Element) -> Iterator[Element]:
    """The text boxes in a paragraph, each once; those in a box come with its own blocks."""
    stack = list(element)
    while stack:
        inner = stack.pop(0)
        name = local_name(inner)
        if name == _BOX:
            yield inner
        elif name not in _UNSEEN:
            stack[:0] = list(inner)


def _text(paragraph: Element) -> str:
    parts: list[str] = []
    stack = list(paragraph)[::-1]
    while stack:
        element = stack.pop()
        name = local_name(element)
        if name == "t":
            parts.append(element.text or "")
        elif name in _GAPS:
            parts.append(" ")
        elif name == "noBreakHyphen":
            parts.append("-")
        elif name in _SAID_BY:
            parts.append(f" {element.get(_SAID_BY[name], '')} ")
        elif name != _BOX and name not in _UNSEEN and not _is_hidden(element):
            stack.extend(list(element)[::-1])
    return " ".join("".join(parts).split())


def _is_hidden(element: Element) -> bool:
    mark = find_child(element, "rPr", "vanish") if local_name(element) == "r" else None
    return mark is not None and find_attribute(mark, "val") not in ("0", "false", "off")
