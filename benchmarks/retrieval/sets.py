"""Questions in ordinary words over manuals that Debian ships, in three languages: recall@k and MRR beside bm25s.

    apt-get install -y --no-install-recommends git-doc apache2-doc lilypond-doc-html-de
    python -m benchmarks.retrieval.sets [--half report|tune] [--set git]

`questions/*.tsv` has a line for each question: the question, the pages that answer it, a word of the passage that does,
and for a follow-up the question before it. Questions without pages have no answer in the manual. Odd lines are there to
tune on, even ones only for the figures that are reported.
"""

import argparse
import asyncio
import random
import statistics
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.retrieval.database import open_database
from benchmarks.retrieval.manual import ManualPassage, passages_of
from benchmarks.retrieval.peers import Bm25s
from flotilla.knowledge import KnowledgeBase, Upload
from flotilla.knowledge.embedders import MiniLm
from flotilla.knowledge.embedding import Embedder, Embedding
from flotilla_devstack import stack_for_tests
from flotilla_devstack.embedding_model import ensure_model

QUESTIONS = Path(__file__).parent / "questions"
TENANT = "manual"
DEPTH = 10
RESAMPLES = 2000


@dataclass(frozen=True)
class Manual:
    """Where a manual's pages are, and the language of its stemmer for bm25s."""

    folder: Path
    pattern: str
    ending: str
    language: str

    def uploads(self) -> list[Upload]:
        """Every page; its uri is its place without the ending."""
        pages = sorted(path for path in self.folder.glob(self.pattern) if "-big-page" not in path.name)
        if not pages:
            raise SystemExit(f"no manual in {self.folder}: apt-get install -y {PACKAGES}")
        return [
            Upload(uri=str(page.relative_to(self.folder)).removesuffix(self.ending), content=page.read_bytes(),
                   media_type="text/html")
            for page in pages
        ]  # fmt: skip


PACKAGES = "git-doc apache2-doc lilypond-doc-html-de"
_LILYPOND = Path("/usr/share/doc/lilypond/html/Documentation")
MANUALS = {
    "git": Manual(Path("/usr/share/doc/git/html"), "*.html", "", "english"),
    "apache-fr": Manual(Path("/usr/share/doc/apache2-doc/manual/fr"), "**/*.html", "", "french"),
    "lilypond-de": Manual(_LILYPOND, "[ln]*/*.de.html", ".de.html", "german"),
}


@dataclass(frozen=True)
class Question:
    """`asked` is what a search gets: a follow-up has the question before it in front."""

    asked: str
    pages: frozenset[str]
    word: str


@dataclass(frozen=True)
class Judged:
    """Place of the first right page and of the first right passage among those found; 0 is none."""

    page: int
    passage: int


Search = Callable[[str], Awaitable[Sequence[tuple[str, str]]]]
"""Pages and texts of the passages found, best first."""


def read_questions(name: str, half: str) -> list[Question]:
    """The answerable questions of one half."""
    lines = (QUESTIONS / f"{name}.tsv").read_text(encoding="utf-8").splitlines()
    rows = [line.split("\t") for line in lines[half == "report" :: 2]]
    return [
        Question(" ".join([*row[3:], row[0]]), frozenset(row[1].split(",")), row[2]) for row in rows if row[1:2] > [""]
    ]


def _judge(question: Question, found: Sequence[tuple[str, str]]) -> Judged:
    right = [page in question.pages for page, _ in found]
    holds = [ok and question.word.lower() in text.lower() for ok, (_, text) in zip(right, found, strict=True)]
    return Judged(*(one.index(True) + 1 if True in one else 0 for one in (right, holds)))


async def _report(label: str, questions: Sequence[Question], search: Search) -> None:
    judged, times = [], []
    for question in questions:
        started = time.perf_counter()
        found = await search(question.asked)
        times.append((time.perf_counter() - started) * 1000)
        judged.append(_judge(question, found))
    pages, passages = [one.page for one in judged], [one.passage for one in judged]
    figures = [f"@{k} {_with_interval([0 < place <= k for place in pages])}" for k in (1, 5, 10)]
    figures.append(f"MRR {_with_interval([1 / place if place else 0 for place in pages])}")
    figures.append(f"passage @5 {_with_interval([0 < place <= 5 for place in passages])}")
    print(f"  {label:<12} {', '.join(figures)}; p50 {statistics.median(times):.1f} ms")


def _with_interval(values: Sequence[float]) -> str:
    """The mean, and 95% of what it is when as many questions are drawn from these."""
    draw = random.Random(11)  # noqa: S311 - drawn alike in every run
    means = sorted(statistics.fmean(draw.choices(values, k=len(values))) for _ in range(RESAMPLES))
    return f"{statistics.fmean(values):.2f} [{means[RESAMPLES // 40]:.2f}, {means[-RESAMPLES // 40]:.2f}]"


def _peer(passages: list[ManualPassage], language: str, *, once_a_page: bool) -> Search:
    peer = Bm25s(passages, language)

    async def search(query: str) -> Sequence[tuple[str, str]]:
        found = peer.search(query, DEPTH * 10 if once_a_page else DEPTH)
        if once_a_page:
            best: dict[str, ManualPassage] = {}
            for passage in found:
                best.setdefault(passage.uri, passage)
            found = list(best.values())
        return [(passage.uri, passage.piece.text) for passage in found[:DEPTH]]

    return search


async def _run(server_dsn: str, names: Sequence[str], half: str, embedder: Embedder | None) -> None:
    for name in names:
        manual, questions = MANUALS[name], read_questions(name, half)
        uploads = manual.uploads()
        passages = passages_of(uploads)
        print(f"{name}: {len(uploads)} pages, {len(passages)} passages, {len(questions)} questions ({half})")
        for label, once in (("bm25s", False), ("bm25s 1/page", True)):
            await _report(label, questions, _peer(passages, manual.language, once_a_page=once))
        async with open_database(server_dsn) as (_, pool):
            knowledge = KnowledgeBase(pool)
            for upload in uploads:
                await knowledge.add(TENANT, upload)
            await _report("flotilla", questions, _of(knowledge))
            if embedder:
                started = time.perf_counter()
                count = await Embedding(pool, embedder).embed(asyncio.Event())
                print(f"  {count / (time.perf_counter() - started):.0f} passages/s embedded by {embedder.name}")
                await _report("+ meaning", questions, _of(KnowledgeBase(pool, embedder=embedder)))


def _of(knowledge: KnowledgeBase) -> Search:
    async def search(query: str) -> Sequence[tuple[str, str]]:
        found = await knowledge.search(TENANT, query, DEPTH)
        return [(passage.source.uri, passage.text) for passage in found]

    return search


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--half", choices=("report", "tune"), default="report")
    parser.add_argument("--set", choices=sorted(MANUALS), action="append")
    parser.add_argument("--embeddings", action="store_true", help="measure with the built-in embedding model, too")
    arguments = parser.parse_args()
    embedder = MiniLm(ensure_model()) if arguments.embeddings else None
    names = arguments.set or sorted(MANUALS)
    with stack_for_tests(["postgres"]) as stack:
        asyncio.run(_run(stack.postgres_dsn("postgres"), names, arguments.half, embedder))


if __name__ == "__main__":
    main()
