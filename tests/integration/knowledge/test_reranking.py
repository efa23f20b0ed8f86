"""A reranker's endpoint orders what a search found, in both forms of the API, and no search fails with it."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from flotilla.answers.features import features_of_search
from flotilla.config import KnowledgeSettings
from flotilla.contracts.errors import ConfigurationError
from flotilla.contracts.identity import user_name
from flotilla.knowledge import KnowledgeBase, UploadedDocument, create_knowledge_base
from flotilla.postgres import Pool, Viewer, acting_as
from flotilla.runtime.health import http_server

QUESTION = "How many days of holiday do people have?"
LIKELY = "Holiday days: how many days people have is a question of days that people like."
RIGHT = "Leave: thirty working days a year for people who work full time."
ALICE, BOB = user_name("flotilla", "alice"), user_name("flotilla", "bob")
OTHER_ORDER = b'[{"index": 0, "score": 0.1}, {"index": 1, "score": 0.9}]'
Answers = Callable[[dict[str, Any]], Response]


class Endpoint:
    """Finds those texts best that say what `LIKELY` only talks about."""

    def __init__(self, answers: Answers | None = None) -> None:
        self.asked: list[dict[str, Any]] = []
        self.keys: list[str | None] = []
        self._answers = answers or self._scores

    async def rerank(self, request: Request) -> Response:
        self.asked.append(await request.json())
        self.keys.append(request.headers.get("authorization"))
        return self._answers(self.asked[-1])

    @staticmethod
    def _scores(asked: dict[str, Any]) -> Response:
        named = "model" in asked
        scores = [0.97 if "thirty" in text else 0.02 for text in asked["documents" if named else "texts"]]
        ranked = sorted(enumerate(scores), key=lambda one: -one[1])
        if named:
            return JSONResponse({"results": [{"index": n, "relevance_score": score} for n, score in ranked]})
        return JSONResponse([{"index": n, "score": score} for n, score in ranked])

    @property
    def texts(self) -> list[str]:
        return [text for asked in self.asked for text in asked.get("documents") or asked["texts"]]


@asynccontextmanager
async def reranked(pool: Pool, endpoint: Endpoint, **settings: object) -> AsyncIterator[KnowledgeBase]:
    app = Starlette(routes=[Route("/v1/rerank", endpoint.rerank, methods=["POST"])])
    async with http_server(app, "127.0.0.1", 0, grace_s=0).serving() as port:
        asked = {"rerank_url": f"http://127.0.0.1:{port}/v1/", **settings}
        knowledge = create_knowledge_base(pool, KnowledgeSettings.model_validate(asked))
        try:
            yield knowledge
        finally:
            await knowledge.close()


async def add(pool: Pool, readers: Sequence[str] | None = None, **documents: str) -> None:
    knowledge = KnowledgeBase(pool)
    for name, text in documents.items():
        upload = UploadedDocument(
            uri=f"{name}.txt", content=text.encode(), readers=None if readers is None else tuple(readers)
        )
        await knowledge.add("acme", upload)


async def found(knowledge: KnowledgeBase) -> list[str]:
    return [passage.source.uri for passage in await knowledge.search("acme", QUESTION)]


async def test_a_named_model_is_asked_in_cohere_form(pool: Pool) -> None:
    await add(pool, likely=LIKELY, right=RIGHT)
    assert await found(KnowledgeBase(pool)) == ["likely.txt", "right.txt"]
    endpoint = Endpoint()
    async with reranked(pool, endpoint, rerank_model="rerank-4", rerank_api_key="s3cret") as knowledge:
        passages = await knowledge.search("acme", QUESTION)

    assert [one.source.uri for one in passages] == ["right.txt", "likely.txt"]
    assert [one.by_reranker for one in passages] == [0.97, 0.02]
    assert features_of_search(QUESTION, passages)["relevance"] == 0.97
    [asked] = endpoint.asked
    assert sorted(asked) == ["documents", "model", "query", "top_n"]
    assert (asked["model"], asked["query"], asked["top_n"]) == ("rerank-4", QUESTION, 2)
    assert endpoint.keys == ["Bearer s3cret"]


async def test_an_endpoint_without_a_models_name_is_asked_as_text_embeddings_inference(pool: Pool) -> None:
    await add(pool, likely=LIKELY, right=RIGHT)
    endpoint = Endpoint()
    async with reranked(pool, endpoint) as knowledge:
        assert await found(knowledge) == ["right.txt", "likely.txt"]
    assert [sorted(asked) for asked in endpoint.asked] == [["query", "texts", "truncate"]]


async def test_it_reads_as_many_passages_as_the_setting_says_and_32_at_once(pool: Pool) -> None:
    others = {f"other{n}": f"Text number {n} is about people and days: {n} days for {n} people." for n in range(80)}
    await add(pool, right=RIGHT, **others)
    endpoint = Endpoint()
    async with reranked(pool, endpoint, rerank_passages=70) as knowledge:
        await found(knowledge)
    assert [len(asked["texts"]) for asked in endpoint.asked] == [32, 32, 6]
    assert len(set(endpoint.texts)) == 70


async def test_it_sees_nothing_that_the_caller_may_not_read(pool: Pool) -> None:
    await add(pool, (ALICE,), right=RIGHT)
    await add(pool, likely=LIKELY)
    await KnowledgeBase(pool).add("globex", UploadedDocument(uri="theirs.txt", content=LIKELY.encode()))
    endpoint = Endpoint()
    async with reranked(pool, endpoint) as knowledge:
        with acting_as(Viewer(names=(BOB,))):
            assert await found(knowledge) == ["likely.txt"]
        assert len(endpoint.texts) == 1
        assert LIKELY in endpoint.texts[0]
        with acting_as(Viewer(names=(ALICE,))):
            assert await found(knowledge) == ["right.txt", "likely.txt"]


async def test_no_connection_is_held_while_it_reads(pool: Pool) -> None:
    await add(pool, likely=LIKELY, right=RIGHT)
    idle = list[bool]()

    def answers(asked: dict[str, Any]) -> Response:
        idle.append(pool.get_idle_size() == pool.get_size())
        return Endpoint._scores(asked)

    async with reranked(pool, Endpoint(answers)) as knowledge:
        await found(knowledge)
    assert idle == [True]


async def test_of_a_long_question_the_beginning_is_compared(pool: Pool) -> None:
    await add(pool, likely=LIKELY)
    endpoint = Endpoint()
    async with reranked(pool, endpoint) as knowledge:
        await knowledge.search("acme", f"{QUESTION} {'holiday ' * 5000}")
    assert len(endpoint.asked[0]["query"]) == 4000


def flood(_asked: dict[str, Any]) -> Response:
    async def pieces() -> AsyncIterator[bytes]:
        for _ in range(30):
            yield b" " * 65_536
        yield OTHER_ORDER

    return StreamingResponse(pieces(), media_type="application/json")


def drip(_asked: dict[str, Any]) -> Response:
    async def pieces() -> AsyncIterator[bytes]:
        for _ in range(100):
            yield b" "
            await asyncio.sleep(0.02)
        yield OTHER_ORDER

    return StreamingResponse(pieces(), media_type="application/json")


def scores(*numbered: tuple[int, object]) -> Answers:
    return lambda _asked: JSONResponse([{"index": n, "score": score} for n, score in numbered])


BROKEN: dict[str, Answers] = {
    "an error": lambda _asked: Response("out of memory", 500),
    "a key that is refused": lambda _asked: Response("no", 401),
    "somewhere else": lambda _asked: Response(status_code=307, headers={"location": "http://127.0.0.1:1/"}),
    "no JSON": lambda _asked: Response("<html>", media_type="text/html"),
    "another form": lambda _asked: JSONResponse({"results": []}),
    "too few": scores((1, 0.9)),
    "too many": scores((0, 0.1), (1, 0.9), (2, 0.3)),
    "one twice": scores((1, 0.9), (1, 0.8)),
    "one of none": scores((1, 0.9), (-1, 0.8)),
    "words": scores((0, "low"), (1, "high")),
    "infinity": lambda _asked: Response('[{"index":0,"score":0},{"index":1,"score":1e999}]'),
    "not a number": lambda _asked: Response('[{"index":0,"score":0},{"index":1,"score":NaN}]'),
    "a flood": flood,
    "bytes that come slowly": drip,
}


@pytest.mark.parametrize("answers", BROKEN.values(), ids=BROKEN)
async def test_what_is_no_order_leaves_the_search_as_it_is_without(pool: Pool, answers: Answers) -> None:
    await add(pool, likely=LIKELY, right=RIGHT)
    async with reranked(pool, Endpoint(answers), rerank_timeout_s=0.5) as knowledge:
        passages = await knowledge.search("acme", QUESTION)
    assert [one.source.uri for one in passages] == ["likely.txt", "right.txt"]
    assert [one.by_reranker for one in passages] == [None, None]


async def test_an_endpoint_that_is_away_leaves_the_search_as_it_is_without(pool: Pool) -> None:
    await add(pool, likely=LIKELY, right=RIGHT)
    settings = KnowledgeSettings.model_validate({"rerank_url": "http://127.0.0.1:1"})
    knowledge = create_knowledge_base(pool, settings)
    assert await found(knowledge) == ["likely.txt", "right.txt"]
    await knowledge.close()


async def test_an_empty_search_asks_nothing(pool: Pool) -> None:
    endpoint = Endpoint()
    async with reranked(pool, endpoint) as knowledge:
        assert await found(knowledge) == []
    assert endpoint.asked == []


@pytest.mark.parametrize("url", ["models.example.com/v1", "http://models.example.com:port/v1"])
def test_an_address_that_is_none_is_refused_at_the_start(pool: Pool, url: str) -> None:
    settings = KnowledgeSettings.model_validate({"rerank_url": url})
    with pytest.raises(ConfigurationError, match="FLOTILLA_RERANK_URL is "):
        create_knowledge_base(pool, settings)
