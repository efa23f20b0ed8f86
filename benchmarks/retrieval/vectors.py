"""A built-in embedding model, with the vectors of former runs kept, and the exact ranking by them alone."""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from benchmarks.retrieval.manual import ManualPassage
from flotilla.knowledge.embedders import LocalEmbedder
from flotilla_devstack.embedding_model import ensure_embedding_model
from flotilla_devstack.folders import cache_dir
from flotilla_devstack.multilingual_model import ensure_multilingual_model

BATCH = 32


MODELS = {"english": ensure_embedding_model, "multilingual": ensure_multilingual_model}


class KeptVectors:
    """A built-in model that computes no vector twice, in this run or another."""

    def __init__(self, model: str) -> None:
        self._model = LocalEmbedder(MODELS[model]())
        self.name = self._model.name
        self._folder = cache_dir() / "manuals" / "vectors" / self.name
        self._folder.mkdir(parents=True, exist_ok=True)

    @property
    def unrelated_cosine(self) -> float:
        """The model's cosine of texts that have nothing to do with each other."""
        return self._model.unrelated_cosine

    async def embed(self, texts: Sequence[str]) -> list[list[float]]:
        """Return the vector of each text."""
        missing = [text for text in texts if not self._file(text).exists()]
        for text, vector in zip(missing, await self._model.embed(missing) if missing else [], strict=True):
            self._keep(text, vector)
        return [self._kept(text) for text in texts]

    async def embed_question(self, question: str) -> list[float]:
        """Return the vector of a question."""
        kept = f"question: {question}"
        if not self._file(kept).exists():
            self._keep(kept, await self._model.embed_question(question))
        return self._kept(kept)

    def _file(self, text: str) -> Path:
        return self._folder / hashlib.sha256(text.encode()).hexdigest()[:24]

    def _keep(self, text: str, vector: Sequence[float]) -> None:
        self._file(text).write_text(json.dumps([round(value, 6) for value in vector]))

    def _kept(self, text: str) -> list[float]:
        return json.loads(self._file(text).read_text())  # type: ignore[no-any-return]


class Dense:
    """Ranks by meaning alone, exactly."""

    def __init__(self, passages: list[ManualPassage], embedder: KeptVectors) -> None:
        self._passages = passages
        self._embedder = embedder
        self._matrix = np.zeros((0, 0))

    async def search(self, query: str, k: int) -> list[ManualPassage]:
        """The `k` nearest passages."""
        if not self._matrix.size:
            self._matrix = np.array(await self._all())
        asked = await self._embedder.embed_question(query)
        order = np.argsort(-(self._matrix @ np.array(asked)))[:k]
        return [self._passages[number] for number in order]

    async def _all(self) -> list[list[float]]:
        texts = [f"{p.title}\n{p.piece.heading}\n{p.piece.text}" for p in self._passages]
        batches = [texts[at : at + BATCH] for at in range(0, len(texts), BATCH)]
        return [vector for batch in batches for vector in await self._embedder.embed(batch)]
