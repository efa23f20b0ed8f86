"""Files and embeddings by OpenAI's own client; the test plays the workflow worker."""

import asyncio
import base64
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import openai
import pytest
from openai import AsyncOpenAI
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from flotilla.bus import connect_redis
from flotilla.bus.live import LiveRunWriter
from flotilla.contracts.errors import RetryLater
from flotilla.knowledge import KnowledgeBase
from flotilla.postgres import open_pool
from flotilla.runtime.health import http_server
from gateway.openai import files
from gateway.retention import RetentionJob
from tests.integration.gateway.conftest import Replica
from tests.integration.gateway.test_openai_clients import answer_next
from tests.support.gateway import RunningGateway

MODEL = "flotilla/rag"
PAGE = b"# Sluice\n\nThe sluice keeper opens the eastern sluice at six.\n"


@pytest.fixture
async def feed(redis_url: str) -> AsyncIterator[LiveRunWriter]:
    async with connect_redis(redis_url) as redis:
        yield LiveRunWriter(redis)


async def client_of(gateway: RunningGateway, name: str) -> AsyncOpenAI:
    key = await gateway.key(name, ["operator"], person=True)
    return AsyncOpenAI(base_url=f"{gateway.url}/openai/v1", api_key=key, max_retries=0, timeout=90)


@pytest.fixture
async def client(gateway: RunningGateway) -> AsyncIterator[AsyncOpenAI]:
    async with await client_of(gateway, "olga") as client:
        yield client


def asked(*parts: dict[str, Any]) -> Any:
    return [{"role": "user", "content": [*parts, {"type": "input_text", "text": "When does it open?"}]}]


async def test_file_is_kept_listed_read_and_deleted(client: AsyncOpenAI) -> None:
    one = await client.files.create(file=("sluice.md", PAGE), purpose="user_data")
    two = await client.files.create(
        file=("gate.txt", b"x"), purpose="assistants", expires_after={"anchor": "created_at", "seconds": 3600}
    )
    assert (one.filename, one.bytes, one.purpose, one.status) == ("sluice.md", len(PAGE), "user_data", "processed")
    assert (two.expires_at or 0) - two.created_at == 3600
    assert [file.id async for file in client.files.list(limit=1)] == [two.id, one.id]
    assert [file.id async for file in client.files.list(order="asc", limit=1)] == [one.id, two.id]
    assert [file.id async for file in client.files.list(purpose="user_data")] == [one.id]
    assert (await client.files.retrieve(one.id)).to_dict() == one.to_dict()
    content = await client.files.content(one.id)
    assert content.read() == PAGE
    assert content.response.headers["content-type"] == "application/octet-stream"
    assert content.response.headers["x-content-type-options"] == "nosniff"
    assert (await client.files.delete(one.id)).deleted
    for call in (client.files.retrieve, client.files.content, client.files.delete):
        with pytest.raises(openai.NotFoundError, match=f"no file {one.id}"):
            await call(one.id)


async def test_file_is_its_senders_alone(gateway: RunningGateway, client: AsyncOpenAI) -> None:
    mine = await client.files.create(file=("sluice.md", PAGE), purpose="user_data")
    async with await client_of(gateway, "mallory") as other:
        assert [file.id async for file in other.files.list()] == []
        for call in (other.files.retrieve, other.files.content, other.files.delete):
            with pytest.raises(openai.NotFoundError):
                await call(mine.id)
        with pytest.raises(openai.NotFoundError, match=f"no file {mine.id}"):
            await other.responses.create(model=MODEL, input=asked({"type": "input_file", "file_id": mine.id}))
    assert await gateway.rows("SELECT 1 FROM flotilla.runs") == []
    assert await gateway.rows("SELECT 1 FROM flotilla.documents") == []


async def test_files_of_a_question_are_found_in_its_session_alone(
    gateway: RunningGateway, client: AsyncOpenAI, feed: LiveRunWriter
) -> None:
    sent = await client.files.create(file=("sluice.md", PAGE), purpose="user_data")
    data = f"data:text/plain;base64,{base64.b64encode(b'The gate opens at seven.').decode()}"
    inline = {"type": "input_file", "filename": "gate.txt", "file_data": data}
    question = asked({"type": "input_file", "file_id": sent.id}, inline)
    asking = asyncio.create_task(client.responses.create(model=MODEL, input=question))
    row = await answer_next(gateway, feed, 1)
    assert (await asking).status == "completed"
    assert row["query"] == "When does it open?"
    native = gateway.client(client.api_key)

    async def found(**options: str) -> list[str]:
        page = await native.get("/v1/documents/search", params={"q": "when does it open", **options})
        return sorted(passage["source"]["uri"].rpartition("/")[2] for passage in page.json()["passages"])

    assert await found(session_id=row["session_id"]) == ["gate.txt", "sluice.md"]
    assert await found() == []
    # A chat program sends the whole conversation each time: what is attached stays as it is.
    chat: Any = {"type": "file", "file": {"file_id": sent.id}}
    messages: Any = [{"role": "user", "content": [chat, {"type": "text", "text": "And at night?"}]}]
    headers = {"Flotilla-Session": row["session_id"]}
    completing = client.chat.completions.create(model=MODEL, messages=messages, extra_headers=headers)
    again = asyncio.create_task(completing)
    await answer_next(gateway, feed, 2)
    await again
    assert len(await gateway.rows("SELECT 1 FROM flotilla.documents")) == 2
    await client.files.delete(sent.id)
    assert await found(session_id=row["session_id"]) == ["gate.txt"]


async def test_deletion_that_was_interrupted_can_be_asked_for_again(
    gateway: RunningGateway, client: AsyncOpenAI, feed: LiveRunWriter, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent = await client.files.create(file=("sluice.md", PAGE), purpose="user_data")
    question = asked({"type": "input_file", "file_id": sent.id})
    asking = asyncio.create_task(client.responses.create(model=MODEL, input=question))
    await answer_next(gateway, feed, 1)
    await asking

    async def interrupted(*_: Any) -> None:
        raise RetryLater("the gateway was stopped")

    with monkeypatch.context() as patched:
        patched.setattr(KnowledgeBase, "remove", interrupted)
        with pytest.raises(openai.InternalServerError):
            await client.with_options(max_retries=0).files.delete(sent.id)
    await client.files.delete(sent.id)
    assert await gateway.rows("SELECT 1 FROM flotilla.documents") == []
    assert await gateway.rows("SELECT 1 FROM flotilla.openai_files") == []


async def test_nothing_is_attached_to_a_session_of_somebody_else(
    gateway: RunningGateway, client: AsyncOpenAI, replica: Replica
) -> None:
    sent = await client.files.create(file=("sluice.md", PAGE), purpose="user_data")
    async with await client_of(gateway, "mallory") as other:
        await gateway.client(other.api_key).post("/v1/sessions", json={"session_id": "hers"})
        await gateway.as_superuser("UPDATE flotilla.sessions SET visibility = 'private' WHERE session_id = 'hers'")
    with pytest.raises(openai.NotFoundError):
        await client.responses.create(
            model=MODEL,
            input=asked({"type": "input_file", "file_id": sent.id}),
            extra_headers={"Flotilla-Session": "hers"},
        )
    assert await gateway.rows("SELECT 1 FROM flotilla.documents") == []


@pytest.mark.parametrize(
    ("part", "message"),
    [
        ({"type": "input_file", "file_url": "https://example.com/a.pdf"}, ""),
        ({"type": "input_file", "file_id": "file-1", "file_data": "eA=="}, "either file_id or file_data"),
        ({"type": "input_file", "file_data": "eA=="}, "needs a filename"),
        ({"type": "input_file", "filename": "a.txt", "file_data": "%"}, "not base64"),
        ({"type": "input_file", "filename": "a/b.txt", "file_data": "eA=="}, "filename"),
        ({"type": "input_file", "filename": "a.zip", "file_data": "UEsDBAoAAAAAAA=="}, "a.zip"),
        ({"type": "input_image", "image_url": "https://example.com/a.png"}, ""),
    ],
)
async def test_file_that_can_not_be_read_is_refused(
    gateway: RunningGateway, client: AsyncOpenAI, part: dict[str, Any], message: str
) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        await client.responses.create(model=MODEL, input=asked(part))
    error: Any = refused.value.body
    assert message in f"{error['message']} {error['param']}"
    assert await gateway.rows("SELECT 1 FROM flotilla.runs") == []


@pytest.mark.parametrize("name", ["../a.md", "a\\b.md", f"{'a' * 253}.md"])
async def test_file_with_a_name_that_no_file_has_is_refused(client: AsyncOpenAI, name: str) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        await client.files.create(file=(name, b"x"), purpose="user_data")
    assert refused.value.param == "filename"
    assert (await client.files.list()).data == []


async def test_one_may_have_so_many_files_and_bytes_and_they_expire(
    gateway: RunningGateway, client: AsyncOpenAI, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "MAX_FILES", 2)
    monkeypatch.setattr(files, "MAX_TOTAL_BYTES", 100)
    kept = await client.files.create(file=("a.txt", b"x" * 60), purpose="user_data")
    with pytest.raises(openai.RateLimitError, match="of 60 bytes"):
        await client.files.create(file=("b.txt", b"x" * 60), purpose="user_data")
    made = await asyncio.gather(
        *(client.files.create(file=("c.txt", b"x"), purpose="user_data") for _ in range(3)), return_exceptions=True
    )
    assert len([one for one in made if isinstance(one, openai.RateLimitError)]) == 2
    await gateway.as_superuser(
        f"UPDATE flotilla.openai_files SET expires_at = now() - interval '1 s' WHERE file_id = '{kept.id}'"
    )
    with pytest.raises(openai.NotFoundError):
        await client.files.content(kept.id)
    async with open_pool(gateway.database.dsn("flotilla_gateway"), application="test") as pool:
        await RetentionJob(pool).delete_expired()
    assert len(await gateway.rows("SELECT 1 FROM flotilla.openai_files")) == 1
    for refused in (
        client.files.create(file=("a.txt", b"x"), purpose="batch"),
        client.files.create(file=("a.txt", b"x" * (16 * 1024 * 1024 + 1)), purpose="user_data"),
    ):
        with pytest.raises(openai.APIStatusError) as error:
            await refused
        assert error.value.status_code in {400, 413}


class EmbeddingModel:
    """A model whose vectors hold the number of each text, as long as it gets few at once."""

    def __init__(self) -> None:
        self.embedded = 0

    async def embed(self, request: Request) -> JSONResponse:
        texts = (await request.json())["input"]
        assert len(texts) <= 16
        self.embedded += len(texts)
        numbers = [float(text.rpartition(" ")[2]) for text in texts]
        data = [{"index": n, "embedding": [number, 0.5, -1.25]} for n, number in enumerate(numbers)]
        return JSONResponse({"data": data})


@asynccontextmanager
async def embedding_endpoint(model: EmbeddingModel) -> AsyncIterator[str]:
    app = Starlette(routes=[Route("/v1/embeddings", model.embed, methods=["POST"])])
    async with http_server(app, "127.0.0.1", 0, grace_s=0).serving() as port:
        yield f"http://127.0.0.1:{port}/v1"


async def test_vectors_are_those_of_the_fleets_model(replica: Replica) -> None:
    async with AsyncExitStack() as stack:
        model = EmbeddingModel()
        url = await stack.enter_async_context(embedding_endpoint(model))
        gateway = await stack.enter_async_context(replica(embedding_url=url, embedding_model="stub"))
        client = await stack.enter_async_context(await client_of(gateway, "olga"))
        texts = [f"text {n}" for n in range(40)]
        by_default = await client.embeddings.create(model="flotilla/embedding", input=texts)  # as base64
        floats = await client.embeddings.create(
            model="flotilla/embedding", input=texts, encoding_format="float", dimensions=3
        )
        for one, other in zip(by_default.data, floats.data, strict=True):
            assert one.embedding == pytest.approx(other.embedding)
        assert [one.embedding for one in floats.data] == [[n, 0.5, -1.25] for n in range(40)]
        assert floats.usage.total_tokens == sum(-(-len(text) // 4) for text in texts)
        for body, message in (
            ({"input": "text 1", "dimensions": 2}, "the model has 3"),
            ({"input": [[1, 2]]}, "input"),
            ({"input": []}, "input"),
            ({"input": ["x"] * 257}, "256"),
            ({"input": ["x" * 32_000] * 7}, "200000 are allowed"),
        ):
            with pytest.raises(openai.BadRequestError, match=message):
                await client.post("/embeddings", body={"model": "flotilla/embedding", **body}, cast_to=object)
        with pytest.raises(openai.NotFoundError, match="no embedding model other"):
            await client.embeddings.create(model="other", input="x")
        before = model.embedded
        with pytest.raises(openai.BadRequestError, match="the model has 3"):
            await client.embeddings.create(model="flotilla/embedding", input=texts, dimensions=1536)
        assert model.embedded == before + 1


async def test_without_a_model_there_are_no_vectors(client: AsyncOpenAI) -> None:
    with pytest.raises(openai.NotFoundError, match="FLOTILLA_EMBEDDING_FILE"):
        await client.embeddings.create(model="flotilla/embedding", input="x")
