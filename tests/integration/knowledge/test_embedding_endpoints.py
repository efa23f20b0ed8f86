"""What an `/embeddings` endpoint answers is believed as far as it can be vectors of the texts, and read no further."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from flotilla.config import KnowledgeSettings
from flotilla.contracts.errors import RetryLater
from flotilla.knowledge.embedders import MAX_DIMENSIONS, EndpointEmbedder
from flotilla.runtime.health import http_server

FLOOD_BYTES = 100_000_000
Answers = Callable[[list[str]], Response]


def flood(_texts: list[str]) -> Response:
    """An answer of 100 MB that would be right: blanks before it."""

    async def pieces() -> AsyncIterator[bytes]:
        for _ in range(FLOOD_BYTES // 65_536):
            yield b" " * 65_536
        yield b'{"data": [{"index": 0, "embedding": [0.5]}]}'

    return StreamingResponse(pieces(), media_type="application/json")


@asynccontextmanager
async def embedder(answers: Answers) -> AsyncIterator[EndpointEmbedder]:
    async def embed(request: Request) -> Response:
        return answers((await request.json())["input"])

    app = Starlette(routes=[Route("/v1/embeddings", embed, methods=["POST"])])
    async with http_server(app, "127.0.0.1", 0, grace_s=0).serving() as port:
        settings = {"embedding_url": f"http://127.0.0.1:{port}/v1", "embedding_model": "stub"}
        model = EndpointEmbedder(KnowledgeSettings.model_validate(settings))
        try:
            yield model
        finally:
            await model.close()


def vectors(*sizes: int) -> Answers:
    data = [{"index": n, "embedding": [0.5] * size} for n, size in enumerate(sizes)]
    return lambda _texts: JSONResponse({"data": data})


async def test_a_flood_is_not_read_to_its_end() -> None:
    async with embedder(flood) as model:
        with pytest.raises(RetryLater, match="longer than"):
            await model.embed(["one"])


@pytest.mark.parametrize("sizes", [(3,), (3, 4), (0, 0), (MAX_DIMENSIONS + 1,) * 2, (3, 3, 3)])
async def test_vectors_that_do_not_fit_the_texts_are_refused(sizes: tuple[int, ...]) -> None:
    async with embedder(vectors(*sizes)) as model:
        with pytest.raises(RetryLater, match="each text needs one"):
            await model.embed(["one", "two"])


async def test_the_largest_vectors_are_taken() -> None:
    def longest(texts: list[str]) -> Response:
        number = "-0.12345678901234567"
        one = f'"embedding": [{", ".join([number] * MAX_DIMENSIONS)}]'
        rows = [f'{{"index": {n}, {one}}}' for n in range(len(texts))]
        return Response(f'{{"data": [{", ".join(rows)}]}}', media_type="application/json")

    async with embedder(longest) as model:
        assert [len(vector) for vector in await model.embed(["one"] * 8)] == [MAX_DIMENSIONS] * 8
