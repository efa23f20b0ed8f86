"""Questions in ordinary words over manuals that Debian ships, in four fields and three languages: recall@k and MRR
beside bm25s and beside embeddings alone, and the answers of the built-in model: right, declined, how sure.

    python -m benchmarks.retrieval.sets [--half report|tune] [--set git] [--embeddings MODEL] [--fit FILE]
    python -m benchmarks.retrieval.sets --embeddings english --fit FILE    what the library ships, and its figures

Manuals are fetched from apt, the embedding models from Maven's repository and by pip. Questions are judged by page and
by passage (`questions/*.tsv`); half of them are there to tune on, the others only for the figures that are reported.
`--fit` fits the calibration to the tuning half's answers, with and without embeddings, writes it, and judges by it.
"""

import argparse
import asyncio
import statistics
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from benchmarks.retrieval.answering import Answered, answer_all, print_answers
from benchmarks.retrieval.database import open_database
from benchmarks.retrieval.judged import Half, Question, read_questions, with_interval
from benchmarks.retrieval.manual import ManualPassage, passages_of
from benchmarks.retrieval.manuals import MANUALS
from benchmarks.retrieval.peers import Bm25s
from benchmarks.retrieval.vectors import MODELS, Dense, KeptVectors
from flotilla.answers.calibration import Calibration, shipped_calibration
from flotilla.answers.fitting import fit
from flotilla.knowledge import KnowledgeBase
from flotilla.knowledge.embedding import PassageEmbedding
from flotilla.llm import EXTRACTIVE_MODEL
from flotilla.postgres import Pool
from flotilla_devstack import stack_for_tests

DEPTH = 10
WIDE = 100
"""Passages that peers rank, of which the first of each page counts."""
Search = Callable[[str], Awaitable[Sequence[tuple[str, str]]]]
"""Pages and texts of the passages found, best first."""
Places = dict[str, list[tuple[int, int]]]
"""For each way to search, the places of the first right page and of the first right passage; 0 is none."""


def _first(right: Sequence[bool]) -> int:
    return right.index(True) + 1 if True in right else 0


def _print_places(label: str, judged: Sequence[tuple[int, int]], more: str = "") -> None:
    pages, passages = [one for one, _ in judged], [one for _, one in judged]
    figures = [f"@{k} {with_interval([0 < place <= k for place in pages])}" for k in (1, 5, 10)]
    figures.append(f"MRR {with_interval([1 / place if place else 0 for place in pages])}")
    figures.append(f"passage @5 {with_interval([0 < place <= 5 for place in passages])}")
    print(f"  {label:<16} {', '.join(figures)}{more}")


def _once_a_page(found: Sequence[ManualPassage]) -> list[tuple[str, str]]:
    best: dict[str, ManualPassage] = {}
    for passage in found:
        best.setdefault(passage.uri, passage)
    return [(passage.uri, passage.piece.text) for passage in list(best.values())[:DEPTH]]


def _by_words(passages: list[ManualPassage], stemmer: str, *, once: bool) -> Search:
    peer = Bm25s(passages, stemmer)

    async def search(query: str) -> Sequence[tuple[str, str]]:
        found = peer.search(query, WIDE)
        return _once_a_page(found) if once else [(one.uri, one.piece.text) for one in found[:DEPTH]]

    return search


def _by_meaning(passages: list[ManualPassage], embedder: KeptVectors) -> Search:
    dense = Dense(passages, embedder)

    async def search(query: str) -> Sequence[tuple[str, str]]:
        return _once_a_page(await dense.search(query, WIDE))

    return search


def _of(knowledge: KnowledgeBase, name: str) -> Search:
    async def search(query: str) -> Sequence[tuple[str, str]]:
        found = await knowledge.search(name, query, DEPTH)
        return [(passage.source.uri, passage.text) for passage in found]

    return search


@dataclass
class _Comparison:
    """The figures of all sets together."""

    half: Half
    embedder: KeptVectors | None
    fits: bool
    places: Places = field(default_factory=dict)
    answered: Answered = field(default_factory=dict)
    tuned: Answered = field(default_factory=dict)
    """The answers to the tuning half, where something is fitted to them."""

    async def one_set(self, pool: Pool, name: str) -> None:
        manual, questions = MANUALS[name], read_questions(name, self.half)
        uploads = manual.uploads()
        passages = passages_of(uploads)
        print(f"{name}: {len(uploads)} pages, {len(passages)} passages, {len(questions)} questions ({self.half})")
        for label, once in (("bm25s", False), ("bm25s 1/page", True)):
            await self._rank(label, name, questions, _by_words(passages, manual.stemmer, once=once))
        knowledge = KnowledgeBase(pool)
        for upload in uploads:
            await knowledge.add(name, upload)
        await self._flotilla("flotilla", name, questions, knowledge)
        if self.embedder:
            await self._rank("dense 1/page", name, questions, _by_meaning(passages, self.embedder))
            await PassageEmbedding(pool, self.embedder).embed_new_passages(asyncio.Event())
            await self._flotilla("flotilla both", name, questions, KnowledgeBase(pool, embedder=self.embedder))

    async def _flotilla(self, label: str, name: str, questions: Sequence[Question], knowledge: KnowledgeBase) -> None:
        await self._rank(label, name, questions, _of(knowledge, name))
        self.answered.setdefault(label, []).extend(await answer_all(knowledge, name, questions))
        if self.fits:
            tuning = await answer_all(knowledge, name, read_questions(name, "tune"))
            self.tuned.setdefault(label, []).extend(tuning)

    async def _rank(self, label: str, name: str, questions: Sequence[Question], search: Search) -> None:
        judged, times = [], []
        for question in (one for one in questions if one.answerable):
            started = time.perf_counter()
            found = await search(question.searched(MANUALS[name].language))
            times.append((time.perf_counter() - started) * 1000)
            pages = [page in question.pages for page, _ in found]
            judged.append((_first(pages), _first([question.is_right(*one) for one in found])))
        self.places.setdefault(label, []).extend(judged)
        _print_places(label, judged, f"; p50 {statistics.median(times):.1f} ms")

    def print_all(self, calibration: Calibration) -> None:
        for label, judged in self.places.items():
            _print_places(label, judged)
        for label, answers in self.answered.items():
            print_answers(label, answers, calibration)

    def calibration(self) -> Calibration:
        """The calibration of the tuning half's answers; what is shipped where nothing is fitted."""
        cases = [answer.case for answers in self.tuned.values() for answer in answers]
        return fit(cases, model=EXTRACTIVE_MODEL) if self.fits else shipped_calibration()


async def _compare(server_dsn: str, names: Sequence[str], comparison: _Comparison) -> None:
    async with open_database(server_dsn) as (_, pool):
        for name in names:
            await comparison.one_set(pool, name)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--half", choices=("report", "tune"), default="report")
    parser.add_argument("--set", choices=sorted(MANUALS), action="append")
    parser.add_argument("--embeddings", choices=sorted(MODELS), help="measure with this built-in model, too")
    parser.add_argument("--fit", type=Path, help="write the calibration of the tuning half's answers")
    arguments = parser.parse_args()
    embedder = KeptVectors(arguments.embeddings) if arguments.embeddings else None
    names = arguments.set or sorted(MANUALS)
    comparison = _Comparison(arguments.half, embedder, fits=arguments.fit is not None)
    with stack_for_tests(["postgres"]) as stack:
        asyncio.run(_compare(stack.postgres_dsn("postgres"), names, comparison))
    print(f"all {len(names)} sets ({arguments.half})")
    calibration = comparison.calibration()
    comparison.print_all(calibration)
    if arguments.fit:
        arguments.fit.write_bytes(msgspec.json.format(msgspec.json.encode(calibration)) + b"\n")


if __name__ == "__main__":
    main()
