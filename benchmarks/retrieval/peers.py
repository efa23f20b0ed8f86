"""The two that are compared, on the same passages: `bm25s` in memory, and the knowledge base in PostgreSQL."""

from importlib import import_module
from typing import Any

try:
    bm25s: Any = import_module("bm25s")
    Stemmer: Any = import_module("Stemmer")
except ImportError as missing:
    raise SystemExit(f"{missing}: pip install bm25s PyStemmer") from missing

from benchmarks.retrieval.manual import ManualPassage, Question

K = 5


class Bm25s:
    """`bm25s` as its documentation recommends it: stop words and stemmer of the language, method "lucene"."""

    def __init__(self, passages: list[ManualPassage], language: str = "english") -> None:
        self._passages = passages
        self._stop_words = language if language != "english" else "en"
        self._stemmer: Any = Stemmer.Stemmer(language)
        self._index: Any = bm25s.BM25()
        texts = [f"{p.title}\n{p.piece.heading}\n{p.piece.text}" for p in passages]
        self._index.index(self._tokens(texts), show_progress=False)

    def search(self, query: str, k: int = K) -> list[ManualPassage]:
        found, _scores = self._index.retrieve(self._tokens([query]), k=k, show_progress=False)
        return [self._passages[number] for number in found[0]]

    def _tokens(self, texts: list[str]) -> Any:
        return bm25s.tokenize(texts, stopwords=self._stop_words, stemmer=self._stemmer, show_progress=False)


def recall(found: set[str], wanted: frozenset[str]) -> float:
    """Of what could be found among K, the share that was."""
    return len(found & wanted) / min(len(wanted), K)


def passage_recall(question: Question, found: list[ManualPassage]) -> float:
    """Recall of the very passages that the index points to."""
    return recall({p.place for p in found}, question.passages)


def section_recall(question: Question, found: list[ManualPassage]) -> float:
    """Recall of the sections that the index points to."""
    return recall({p.section for p in found}, question.sections)
