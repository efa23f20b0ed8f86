"""The best passages of both rankings in the order of a model that reads each of them beside the question.

The model is behind an endpoint, `/rerank`, in one of two forms. A model with a name is asked as Cohere's API has it;
Jina, vLLM, LiteLLM and llama.cpp have it, too. Without a name it is Text Embeddings Inference, which serves one model.
"""

import asyncio
from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

import httpx
import msgspec
import structlog

from flotilla.config import KnowledgeSettings
from flotilla.contracts.errors import ConfigurationError, RetryLater
from flotilla.knowledge.endpoint import open_client, post_json
from flotilla.knowledge.fusion import Row

MAX_QUESTION_CHARACTERS = 4000
"""Of a longer question its beginning is compared: models read some hundred words."""
_TEXTS_AT_ONCE = 32
"""What Text Embeddings Inference takes in one request, unless it is set otherwise."""
_MAX_REST_BYTES = 64 * 1024
log = structlog.get_logger(__name__)


class Reranker(Protocol):
    """A model that says how well texts answer a question."""

    async def score(self, question: str, texts: Sequence[str]) -> list[float]:
        """Return a finite number for each text: the higher, the better it answers.

        Raises:
            RetryLater: the model does not answer.
        """


@runtime_checkable
class ClosableReranker(Reranker, Protocol):
    """One that holds connections."""

    async def close(self) -> None:
        """Release them."""


async def rerank(reranker: Reranker, question: str, rows: Sequence[Row], most: int) -> list[Row]:
    """Return `rows` with the first `most` in the model's order; as they are while it does not answer."""
    first, rest = rows[:most], rows[most:]
    if not first:
        return list(rows)
    texts = [f"{row['title']}\n{row['heading']}\n{row['body']}" for row in first]
    try:
        scores = await reranker.score(question[:MAX_QUESTION_CHARACTERS], texts)
    except RetryLater as error:
        log.warning("passages_not_reranked", error=str(error))
        return list(rows)
    scored = [{**row, "by_reranker": score} for row, score in zip(first, scores, strict=True)]
    return [*sorted(scored, key=lambda row: -row["by_reranker"]), *rest]


def create_reranker(settings: KnowledgeSettings) -> Reranker | None:
    """Return the endpoint's model that the settings ask for; None where there is none.

    Raises:
        ConfigurationError: the endpoint's address is none.
    """
    return EndpointReranker(settings, settings.rerank_url) if settings.rerank_url else None


class EndpointReranker:
    """A model behind `/rerank`."""

    def __init__(self, settings: KnowledgeSettings, url: str) -> None:
        """Connect to nothing yet.

        Raises:
            ConfigurationError: `url` is not an address of HTTP.
        """
        if not url.startswith(("http://", "https://")):
            raise ConfigurationError(f"FLOTILLA_RERANK_URL is {url}: it must begin with https:// or http://")
        try:
            httpx.URL(url)
        except httpx.InvalidURL as error:
            raise ConfigurationError(f"FLOTILLA_RERANK_URL is not a URL: {error}") from error
        self._model = settings.rerank_model or None
        self._timeout_s = settings.rerank_timeout_s
        self._url = f"{url.rstrip('/')}/rerank"
        self._client = open_client(settings.rerank_api_key, settings.rerank_timeout_s)

    async def score(self, question: str, texts: Sequence[str]) -> list[float]:
        """Return how well each text answers, by the endpoint's own scale.

        Raises:
            RetryLater: the endpoint does not answer in time, or not with one finite number for each text.
        """
        at_once = len(texts) if self._model else _TEXTS_AT_ONCE
        scores = list[float]()
        try:
            async with asyncio.timeout(self._timeout_s):
                for at in range(0, len(texts), at_once):
                    scores += await self._ask(question, texts[at : at + at_once])
        except TimeoutError as error:
            raise RetryLater(f"{self._url} did not answer within {self._timeout_s:g} s") from error
        except (httpx.HTTPError, msgspec.DecodeError) as error:
            raise RetryLater(f"{self._url} returned no scores: {error!r}") from error
        return scores

    async def _ask(self, question: str, texts: Sequence[str]) -> list[float]:
        most = _MAX_REST_BYTES + 8 * sum(map(len, texts))  # some send the texts back
        answer = await post_json(self._client, self._url, self._request(question, texts), most)
        scored = sorted(_read(answer, named=self._model is not None))
        if [number for number, _ in scored] != list(range(len(texts))):
            raise RetryLater(f"{self._url} sent {len(scored)} scores for {len(texts)} texts: each needs one")
        return [score for _, score in scored]

    def _request(self, question: str, texts: Sequence[str]) -> dict[str, Any]:
        if self._model:
            return {"model": self._model, "query": question, "documents": list(texts), "top_n": len(texts)}
        return {"query": question, "texts": list(texts), "truncate": True}

    async def close(self) -> None:
        """Release the connections to the endpoint."""
        await self._client.aclose()


def _read(answer: bytes, *, named: bool) -> list[tuple[int, float]]:
    """The number of each text with its score."""
    if named:
        results = msgspec.json.decode(answer, type=_NamedModelsAnswer).results
        return [(one.index, one.relevance_score) for one in results]
    return [(one.index, one.score) for one in msgspec.json.decode(answer, type=list[_Scored])]


class _Relevance(msgspec.Struct):
    index: int
    relevance_score: float


class _NamedModelsAnswer(msgspec.Struct):
    results: list[_Relevance]


class _Scored(msgspec.Struct):
    index: int
    score: float
