"""A real manual as documents, and the questions that its own index asks and answers.

Debian's python3-doc: each index term is a query; what the term links to is where the answer is.
"""

import random
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from selectolax.lexbor import LexborHTMLParser, LexborNode

from flotilla.knowledge.documents import UnstoredPassage, UploadedDocument
from flotilla.knowledge.parse import parse_document
from flotilla.knowledge.split import split_into_passages

MANUALS = ("/usr/share/doc/python3/html", "/usr/share/doc/python3.11/html", "/usr/share/doc/python3.13/html")
_NOT_PAGES = ("genindex", "search.html", "py-modindex", "contents.html")
MIN_TERM_CHARACTERS = 3


@dataclass(frozen=True)
class ManualPassage:
    """A passage of the manual. `section` names the part of a page under one heading."""

    uri: str
    title: str
    piece: UnstoredPassage

    @property
    def section(self) -> str:
        return f"{self.uri}#{self.piece.heading}"

    @property
    def place(self) -> str:
        return f"{self.uri}:{self.piece.start}"


@dataclass(frozen=True)
class Question:
    """An index term, and where the index says it is explained."""

    query: str
    passages: frozenset[str]
    sections: frozenset[str]


def find_manual(folder: Path | None) -> Path:
    """The manual's folder."""
    for candidate in [folder] if folder else map(Path, MANUALS):
        if (candidate / "genindex-A.html").exists():
            return candidate
    raise SystemExit("no manual: apt-get install -y python3-doc, or name its html folder with --manual")


def uploads(manual: Path) -> list[UploadedDocument]:
    """Every page with content."""
    pages = sorted(path for path in manual.rglob("*.html") if not path.name.startswith(_NOT_PAGES))
    return [UploadedDocument(uri=str(page.relative_to(manual)), content=page.read_bytes()) for page in pages]


def passages_of(pages: list[UploadedDocument]) -> list[ManualPassage]:
    """The passages that the knowledge base makes of the pages."""
    made = []
    for page in pages:
        _, parsed = parse_document(page)
        made += [ManualPassage(page.uri, parsed.title, piece) for piece in split_into_passages(parsed.blocks).pieces]
    return made


def questions(manual: Path, passages: list[ManualPassage], count: int, seed: int = 7) -> list[Question]:
    """`count` index terms, drawn at random, whose targets are among the passages."""
    at = {f"{p.uri}#{anchor}": p for p in passages for anchor in p.piece.anchors}
    targets: dict[str, set[str]] = defaultdict(set)
    for page in sorted(manual.glob("genindex-?.html")):
        for query, target in _entries(LexborHTMLParser(page.read_bytes())):
            if target in at and len(query) >= MIN_TERM_CHARACTERS:
                targets[query].add(target)
    drawn = random.Random(seed).sample(sorted(targets), min(count, len(targets)))  # noqa: S311 - drawn alike in every run
    return [
        Question(
            query,
            frozenset(at[target].place for target in targets[query]),
            frozenset(at[target].section for target in targets[query]),
        )
        for query in drawn
    ]


def _entries(page: LexborHTMLParser) -> Iterator[tuple[str, str]]:
    """Query and target of each entry. A nested entry's query begins with the entry above it."""
    for link in page.css("table.indextable li > a"):
        target = link.attributes.get("href") or ""
        text = link.text().strip()
        above = _above(link)
        if text.startswith("["):  # a further place of the entry before it
            first = link.parent.css_first("a") if link.parent else None
            text = first.text().strip() if first else ""
        if text.startswith("("):  # another of the same name: "copy() (list method)" stands above "(set method)"
            above = above.split(" (")[0]
        yield f"{above} {text}".strip(), target


def _above(link: LexborNode) -> str:
    item = link.parent
    outer = item.parent.parent if item and item.parent else None
    if outer is None or outer.tag != "li":
        return ""
    own = outer.first_child
    return (own.text_content or own.text() or "").strip() if own else ""
