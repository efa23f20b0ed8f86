"""Office documents as packages of parts (Open Packaging Conventions, ECMA-376 part 2), read within limits."""

import posixpath
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from io import BytesIO
from xml.etree.ElementTree import Element, ParseError

from defusedxml import DefusedXmlException
from defusedxml.ElementTree import fromstring

from flotilla.contracts.errors import Invalid

MAX_PARTS = 20_000
MAX_UNPACKED_BYTES = 512 * 1024 * 1024
"""What the parts say that they unpack to; zipfile reads no more of a part than it says."""
_DAMAGED = (zipfile.BadZipFile, OSError, EOFError, NotImplementedError, RuntimeError, ValueError)
"""What zipfile raises for archives that are damaged, encrypted or packed by a method that it does not know."""
DRAWN = frozenset(("chart", "diagramData"))
"""Kinds of parts that are drawings with words."""
_INLINE = frozenset(("t", "br", "tab", "p", "tc"))


@dataclass(frozen=True, slots=True)
class RelatedPart:
    """What a part refers to."""

    id: str
    kind: str
    """The last part of the relationship's type: `slide`, `styles`."""
    target: str
    """The name of a part."""


class OfficePackage:
    """One document's parts."""

    def __init__(self, content: bytes) -> None:
        """Open it; no part is read yet.

        Raises:
            Invalid: it is damaged, or unpacks to more than is read.
        """
        try:
            self._archive = zipfile.ZipFile(BytesIO(content))
        except _DAMAGED as error:
            raise Invalid("is a damaged ZIP archive") from error
        parts = self._archive.infolist()
        size = sum(part.file_size for part in parts)
        if len(parts) > MAX_PARTS or size > MAX_UNPACKED_BYTES:
            raise Invalid(f"unpacks to {len(parts)} parts of {size} bytes, {MAX_UNPACKED_BYTES} bytes are allowed")
        self._names = {part.filename.lower(): part.filename for part in parts}

    @property
    def main(self) -> str | None:
        """The name of the part that is the document itself; None in archives that are no such package."""
        return next((one.target for one in self.related_parts("") if one.kind == "officeDocument"), None)

    def content_type(self, part: str) -> str:
        """The media type of a part that has one of its own."""
        for element in self.xml("[Content_Types].xml"):
            if local_name(element) == "Override" and element.get("PartName", "").lower() == f"/{part}".lower():
                return element.get("ContentType", "")
        return ""

    def related_parts(self, part: str) -> list[RelatedPart]:
        """What a part refers to within the package, in the order of the file."""
        folder, name = posixpath.split(part)
        listing = posixpath.join(folder, "_rels", f"{name}.rels")
        if listing.lower() not in self._names:
            return []
        return [_related(element, folder) for element in self.xml(listing) if element.get("TargetMode") != "External"]

    def xml(self, part: str) -> Element:
        """A part's root element.

        Raises:
            Invalid: there is no such part, or it is not safe XML.
        """
        try:
            root: Element = fromstring(self._archive.read(self._names[part.lower()]), forbid_dtd=True)
        except KeyError as error:
            raise Invalid(f"is damaged: its part {part} is missing") from error
        except (ParseError, DefusedXmlException, LookupError, *_DAMAGED) as error:
            raise Invalid(f"is damaged: its part {part} can't be read ({type(error).__name__})") from error
        return root

    def related_roots(self, part: str, kind: str) -> Iterator[Element]:
        """The roots of the parts of one kind that a part refers to."""
        for one in self.related_parts(part):
            if one.kind == kind:
                yield self.xml(one.target)


def local_name(element: Element) -> str:
    """An element's name without its namespace: that of the strict form of the format is another one."""
    return element.tag.rpartition("}")[2]


def find_attribute(element: Element, name: str) -> str:
    """An attribute in whatever namespace; empty where it is missing."""
    return next((value for key, value in element.attrib.items() if key.rpartition("}")[2] == name), "")


def find_child(element: Element | None, *path: str) -> Element | None:
    """The first child of that name, of that one the next, and so on."""
    for name in path:
        element = next((one for one in element if local_name(one) == name), None) if element is not None else None
    return element


def text_of_paragraphs(element: Element) -> str:
    """The text of a paragraph or cell of a drawing (DrawingML), in one line."""
    parts = (
        inner.text or "" if local_name(inner) == "t" else " "
        for inner in element.iter()
        if local_name(inner) in _INLINE
    )
    return " ".join("".join(parts).split())


def drawn_text(root: Element) -> str:
    """The words and values of a chart or diagram, each once."""
    texts = dict.fromkeys(
        text_of_paragraphs(element) if local_name(element) == "p" else (element.text or "").strip()
        for element in root.iter()
        if local_name(element) in ("p", "v")
    )
    return " | ".join(filter(None, texts))


def _related(element: Element, folder: str) -> RelatedPart:
    target = element.get("Target", "")
    absolute = target[1:] if target.startswith("/") else posixpath.normpath(posixpath.join(folder, target))
    return RelatedPart(element.get("Id", ""), element.get("Type", "").rpartition("/")[2], absolute)
