"""The built-in embedding model, with the vectors of former runs kept, and the exact ranking by them alone."""

import hashlib
import json
from collections.abc import Sequence

import numpy as np

from benchmarks.retrieval.manual import ManualPassage
from flotilla.knowledge.embedders import LocalEmbedder
from flotilla_devstack.embedding_model import ensure_embedding_model
from flotilla_devstack.folders import cache_dir

BATCH = 32


class KeptVectors:
    """An embedder that computes no vector twice, in this run or another."""

    def __init__(self) -> None:
        self._model = LocalEmbedder(ensure_embedding_model())
        self.name = self._model.name
        self._folder = cache_dir() / "manuals" / "vectors" / self.name
        self._folder.mkdir(parents=True, exist_ok=True)

    async def embed(self, texts: Sequence[str]) -> list[list[float]]:
        """Return the vector of each text."""
        files = [self._folder / hashlib.sha256(text.encode()).hexdigest()[:24] for text in texts]
        missing = [text for text, file in zip(texts, files, strict=True) if not file.exists()]
        made = dict(zip(missing, await self._model.embed(missing) if missing else [], strict=True))
        for text, file in zip(texts, files, strict=True):
            if text in made:
                file.write_text(json.dumps([round(value, 6) for value in made[text]]))
        return [
            made[text] if text in made else json.loads(file.read_text())
            for text, file in zip(texts, files, strict=True)
        ]


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
        [asked] = await self._embedder.embed([query])
        order = np.argsort(-(self._matrix @ np.array(asked)))[:k]
        return [self._passages[number] for number in order]

    async def _all(self) -> list[list[float]]:
        texts = [f"{p.title}\n{p.piece.heading}\n{p.piece.text}" for p in self._passages]
        batches = [texts[at : at + BATCH] for at in range(0, len(texts), BATCH)]
        return [vector for batch in batches for vector in await self._embedder.embed(batch)]
