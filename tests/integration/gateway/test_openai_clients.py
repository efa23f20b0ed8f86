"""OpenAI's own client against the gateway; the test plays the workflow worker."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from functools import partial
from typing import Any, TypeAlias

import httpx
import openai
import pytest
from openai import AsyncOpenAI

from flotilla.bus import connect_redis
from flotilla.bus.live import LiveRunWriter
from tests.integration.gateway.conftest import Replica
from tests.support.gateway import ANSWER, RunningGateway
from tests.support.waiting import eventually

MODEL = "flotilla/rag"
TEXT = str(ANSWER["answer"])
ClientOf: TypeAlias = Callable[[RunningGateway, str], Awaitable[AsyncOpenAI]]
ASKED: Any = [{"role": "user", "content": "Who opens the gate?"}]
OFFERED: Any = [{"type": "function", "function": {"name": "search", "parameters": {"type": "object"}}}]


@pytest.fixture
async def feed(redis_url: str) -> AsyncIterator[LiveRunWriter]:
    async with connect_redis(redis_url) as redis:
        yield LiveRunWriter(redis)


@pytest.fixture
async def key(gateway: RunningGateway) -> str:
    return await gateway.key("olga", ["operator"])


@pytest.fixture
async def client_of() -> AsyncIterator[ClientOf]:
    """Makes clients of a gateway by key; they are closed with the test."""
    async with AsyncExitStack() as stack:

        async def make(gateway: RunningGateway, key: str) -> AsyncOpenAI:
            client = AsyncOpenAI(base_url=f"{gateway.url}/openai/v1", api_key=key, max_retries=0, timeout=30)
            return await stack.enter_async_context(client)

        yield make


@pytest.fixture
async def client(gateway: RunningGateway, key: str, client_of: ClientOf) -> AsyncOpenAI:
    return await client_of(gateway, key)


async def runs_of(gateway: RunningGateway, count: int) -> list[Any]:
    """The runs, oldest first, once there are `count`."""
    query = "SELECT run_id, session_id, query, request FROM flotilla.runs ORDER BY created_at, run_id"
    rows: list[Any] = []

    async def are_there() -> bool:
        rows[:] = await gateway.rows(query)
        return len(rows) >= count

    await eventually(are_there)
    assert len(rows) == count
    return rows


async def answer_next(gateway: RunningGateway, feed: LiveRunWriter, count: int) -> Any:
    """Ends the newest of `count` runs as the worker does."""
    row = (await runs_of(gateway, count))[-1]
    await gateway.finish(row["run_id"], feed)
    return row


async def say(feed: LiveRunWriter, live: str, text: str, attempt: int = 1) -> None:
    await feed.write_token(live, text, task_id="t", attempt=attempt)
    await feed.wait_until_written()


async def collect(stream: Any, seen: list[Any]) -> None:
    async for chunk in stream:
        seen += [chunk]


def text_of(chunks: list[Any]) -> str:
    return "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)


async def test_models_are_listed_and_found(client: AsyncOpenAI) -> None:
    assert [model.id async for model in client.models.list()] == [MODEL]
    assert (await client.models.retrieve(MODEL)).owned_by == "flotilla"
    for model in ("flotilla/x", "flotilla/agent/x", "gpt-9/x"):
        with pytest.raises(openai.NotFoundError, match=f"no model {model}: GET /openai/v1/models lists them"):
            await client.models.retrieve(model)


async def test_chat_completion_is_the_answer_of_a_run(
    gateway: RunningGateway, client: AsyncOpenAI, feed: LiveRunWriter
) -> None:
    asking = asyncio.create_task(
        client.chat.completions.create(model=MODEL, messages=ASKED, temperature=0.2, tools=OFFERED)
    )
    row = await answer_next(gateway, feed, 1)
    completion = await asking
    assert completion.choices[0].message.content == TEXT
    assert completion.choices[0].finish_reason == "stop"
    assert completion.usage is not None
    assert (completion.usage.prompt_tokens, completion.usage.total_tokens) == (1, 3)
    assert row["query"] == "Who opens the gate?"
    details = completion.model_extra["flotilla"] if completion.model_extra else {}
    assert (details["run_id"], details["session_id"]) == (row["run_id"], row["session_id"])


async def test_chunks_arrive_while_the_answer_is_written_and_add_up_to_it(
    gateway: RunningGateway, client: AsyncOpenAI, feed: LiveRunWriter
) -> None:
    stream = await client.chat.completions.create(
        model=MODEL, messages=ASKED, stream=True, stream_options={"include_usage": True}
    )
    (row,) = await runs_of(gateway, 1)
    live = await gateway.live(row["run_id"])
    seen: list[Any] = []

    reading = asyncio.create_task(collect(stream, seen))
    await say(feed, live, "The harbour ")
    await eventually(lambda: text_of(seen) == "The harbour")
    # A second attempt that writes the same continues where the client is.
    await feed.write_reset(live, task_id="t", attempt=2)
    await say(feed, live, "The har", attempt=2)
    await say(feed, live, "bour mas", attempt=2)
    await eventually(lambda: text_of(seen) == "The harbour mas")
    await gateway.finish(row["run_id"], feed)
    await reading
    assert text_of(seen) == TEXT
    assert seen[0].choices[0].delta.role == "assistant"
    assert [chunk.choices[0].finish_reason for chunk in seen if chunk.choices][-1] == "stop"
    assert seen[-1].usage.total_tokens == 3
    assert len({chunk.id for chunk in seen}) == 1


async def test_another_answer_than_was_streamed_is_an_error_never_a_mixture(
    gateway: RunningGateway, client: AsyncOpenAI, feed: LiveRunWriter
) -> None:
    stream = await client.chat.completions.create(model=MODEL, messages=ASKED, stream=True)
    (row,) = await runs_of(gateway, 1)
    live = await gateway.live(row["run_id"])
    await say(feed, live, "The gate ")
    await feed.write_reset(live, task_id="t", attempt=2)
    await say(feed, live, "The harbour", attempt=2)
    seen: list[Any] = []
    with pytest.raises(openai.APIError, match="differs from what was sent"):
        await collect(stream, seen)
    assert text_of(seen) == "The gate"


async def test_conversation_stays_in_its_session_and_its_turns_reach_the_run(
    gateway: RunningGateway, client: AsyncOpenAI, feed: LiveRunWriter, client_of: ClientOf
) -> None:
    first = asyncio.create_task(client.chat.completions.create(model=MODEL, messages=ASKED))
    one = await answer_next(gateway, feed, 1)
    said = (await first).choices[0].message.content
    messages: Any = [*ASKED, {"role": "assistant", "content": said}, {"role": "user", "content": "And at night?"}]
    second = asyncio.create_task(client.chat.completions.create(model=MODEL, messages=messages))
    two = await answer_next(gateway, feed, 2)
    await second
    assert two["session_id"] == one["session_id"]
    assert json.loads(two["request"])["history"] == [{"query": "Who opens the gate?", "answer": TEXT}]
    # The same words of somebody else are another conversation.
    other = await client_of(gateway, await gateway.key("mallory", ["operator"]))
    third = asyncio.create_task(other.chat.completions.create(model=MODEL, messages=messages))
    three = await answer_next(gateway, feed, 3)
    await third
    assert three["session_id"] != one["session_id"]


async def test_two_conversations_that_begin_alike_do_not_meet(
    gateway: RunningGateway, client: AsyncOpenAI, feed: LiveRunWriter
) -> None:
    asking = [asyncio.create_task(client.chat.completions.create(model=MODEL, messages=ASKED)) for _ in range(2)]
    rows = await runs_of(gateway, 2)
    assert rows[0]["session_id"] != rows[1]["session_id"]
    for row in rows:
        await gateway.finish(row["run_id"], feed)
    await asyncio.gather(*asking)


async def test_retry_of_the_client_finds_its_run_and_a_new_question_makes_one(
    gateway: RunningGateway, client: AsyncOpenAI, feed: LiveRunWriter
) -> None:
    body: Any = {"model": MODEL, "messages": ASKED}
    asking = asyncio.create_task(client.chat.completions.create(**body))
    (row,) = await runs_of(gateway, 1)
    again = asyncio.create_task(client.chat.completions.create(**body, extra_headers={"X-Stainless-Retry-Count": "1"}))
    await gateway.finish(row["run_id"], feed)
    assert (await asking).id == (await again).id
    await runs_of(gateway, 1)
    asking = asyncio.create_task(client.chat.completions.create(**body))
    await answer_next(gateway, feed, 2)
    assert (await asking).id != (await again).id


async def test_session_can_be_named(gateway: RunningGateway, client: AsyncOpenAI, feed: LiveRunWriter) -> None:
    body: Any = {"model": MODEL, "messages": ASKED, "extra_headers": {"Flotilla-Session": "gate"}}
    asking = asyncio.create_task(client.chat.completions.create(**body))
    (row,) = await runs_of(gateway, 1)
    assert row["session_id"] == "gate"
    with pytest.raises(openai.ConflictError, match="has an active run"):
        await client.chat.completions.create(**body)
    await gateway.finish(row["run_id"], feed)
    await asking


async def test_titles_and_tags_take_no_run(gateway: RunningGateway, client: AsyncOpenAI) -> None:
    history = "<chat_history>\nUSER: Who opens the gate at night?\nASSISTANT: x\n</chat_history>"
    for name, expected in (
        ("title", "Who opens the gate at night?"),
        ("tags", ["General"]),
        ("follow_ups", []),
        ("queries", []),
    ):
        content = f'### Task:\nDo it.\n### Output:\nJSON format: {{ "{name}": "x" }}\n### Chat History:\n{history}'
        completion = await client.chat.completions.create(
            model=MODEL, messages=[{"role": "user", "content": content}], max_tokens=50
        )
        assert json.loads(completion.choices[0].message.content or "") == {name: expected}
    assert await gateway.rows("SELECT 1 FROM flotilla.runs") == []


@pytest.mark.parametrize(
    ("body", "param", "message"),
    [
        ({"n": 2}, "n", "parameter 'n' is not supported"),
        ({"n": True}, "n", "parameter 'n' is not supported"),
        ({"tool_choice": "required"}, "tool_choice", "parameter 'tool_choice' is not supported"),
        ({"response_format": {"type": "json_object"}}, None, "answers in prose"),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"schema": 5}}},
            "response_format.json_schema.schema",
            "a valid dictionary",
        ),
        ({"stop": ["\n"]}, "stop", "'stop' is not supported"),
        ({"stream": "yes"}, "stream", "a valid boolean"),
        ({"wat": 1}, "wat", "#/wat: unknown parameter 'wat'"),
        ({"user": "x" * 300}, "user", "at most 256 characters"),
        ({"messages": []}, "messages", ""),
        ({"messages": [{"role": "assistant", "content": "x"}]}, None, "has to be a question"),
        ({"messages": [{"role": "user", "content": " "}]}, None, "has to be a question"),
        ({"messages": [{"role": "user", "content": 5}]}, "messages[0].content", "#/messages/0/content: "),
        ({"messages": [{"role": "user", "content": "a\0b"}]}, "messages[0].content", "can't be stored"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]},
            "messages[0].content[0]",
            "",
        ),
        ({"messages": [{"role": "user", "content": [{"type": "text"}]}]}, "messages[0].content[0].text", "required"),
    ],
)
async def test_what_a_fleet_can_not_do_is_refused_in_openais_shape(
    gateway: RunningGateway, client: AsyncOpenAI, body: dict[str, Any], param: str | None, message: str
) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        await client.post("/chat/completions", body={"model": MODEL, "messages": ASKED, **body}, cast_to=object)
    error: Any = refused.value.body
    assert error["type"] == "invalid_request_error"
    assert message in error["message"]
    assert error["param"] == param
    assert await gateway.rows("SELECT 1 FROM flotilla.runs") == []


async def test_errors_are_openais_for_whatever_goes_wrong(
    gateway: RunningGateway, client: AsyncOpenAI, client_of: ClientOf
) -> None:
    with pytest.raises(openai.AuthenticationError) as refused:
        await (await client_of(gateway, "flo_wrong")).models.list()
    assert refused.value.code == "invalid_api_key"
    viewer = await client_of(gateway, await gateway.key("vera", ["viewer"]))
    with pytest.raises(openai.PermissionDeniedError):
        await viewer.chat.completions.create(model=MODEL, messages=ASKED)
    with pytest.raises(openai.NotFoundError):
        await client.post("/audio/speech", body={}, cast_to=object)
    with pytest.raises(openai.NotFoundError, match="no model gpt-9") as missing:
        await client.chat.completions.create(model="gpt-9", messages=ASKED)
    assert missing.value.code == "model_not_found"
    long: Any = [{"role": "user", "content": "x" * 100_000}]
    with pytest.raises(openai.BadRequestError) as too_long:
        await client.chat.completions.create(model=MODEL, messages=long)
    assert too_long.value.code == "context_length_exceeded"
    with pytest.raises(openai.BadRequestError, match="JSON decode error at character 1") as no_json:
        await client.post("/chat/completions", content=b"{", cast_to=object)
    assert no_json.value.param is None
    await gateway.as_superuser("REVOKE SELECT ON flotilla.runs FROM flotilla_gateway")
    with pytest.raises(openai.InternalServerError, match="the trace id finds it in the logs") as unforeseen:
        await client.responses.retrieve("resp_1")
    assert (unforeseen.value.type, unforeseen.value.code) == ("server_error", "internal")


async def test_run_without_an_answer_is_an_error_with_its_reason(
    gateway: RunningGateway, client: AsyncOpenAI, feed: LiveRunWriter
) -> None:
    asking = asyncio.create_task(client.chat.completions.create(model=MODEL, messages=ASKED))
    (row,) = await runs_of(gateway, 1)
    await gateway.as_superuser(
        "UPDATE flotilla.runs SET status = 'error', finished_at = now(), "
        """error = '{"type": "ModelRefused", "message": "no credit left", "where": "write", "retryable": false}'"""
    )
    with pytest.raises(openai.InternalServerError, match="no credit left"):
        await asking
    response = await client.responses.retrieve(f"resp_{row['run_id']}")
    assert response.status == "failed"
    assert response.error is not None
    assert response.error.message == "no credit left"


async def test_key_that_is_revoked_waits_for_no_answer(replica: Replica, client_of: ClientOf) -> None:
    async with replica(key_cache_s=0) as gateway:
        client = await client_of(gateway, await gateway.key("olga", ["operator"]))
        asking = asyncio.create_task(client.chat.completions.create(model=MODEL, messages=ASKED))
        await runs_of(gateway, 1)
        await gateway.as_superuser("UPDATE flotilla.api_keys SET revoked_at = now()")
        with pytest.raises(openai.PermissionDeniedError, match="no longer read run"):
            await asking


async def test_response_continues_its_session_and_is_read_again(
    gateway: RunningGateway, client: AsyncOpenAI, feed: LiveRunWriter
) -> None:
    asking = asyncio.create_task(
        client.responses.create(model=MODEL, input="Who opens the gate?", metadata={"ticket": "7"}, store=True)
    )
    one = await answer_next(gateway, feed, 1)
    first = await asking
    assert (first.output_text, first.status, first.metadata) == (TEXT, "completed", {"ticket": "7"})
    assert first.usage is not None
    assert first.usage.total_tokens == 3
    again = await client.responses.retrieve(first.id)
    assert again.to_dict() == first.to_dict()
    asking = asyncio.create_task(
        client.responses.create(model=MODEL, input="And at night?", previous_response_id=first.id)
    )
    two = await answer_next(gateway, feed, 2)
    assert (await asking).previous_response_id == first.id
    assert two["session_id"] == one["session_id"]
    items = await client.responses.input_items.list(first.id)
    assert "Who opens the gate?" in items.to_json()


async def test_background_response_is_polled_and_cancelled(gateway: RunningGateway, client: AsyncOpenAI) -> None:
    response = await client.responses.create(model=MODEL, input="Who?", background=True)
    assert response.status == "queued"
    assert (await client.responses.retrieve(response.id)).status == "queued"
    cancelling = asyncio.create_task(client.responses.cancel(response.id))
    await eventually(partial(was_asked_to_stop, gateway))
    await gateway.as_superuser("UPDATE flotilla.runs SET status = 'cancelled', finished_at = now()")
    assert (await cancelling).status == "cancelled"
    assert (await client.responses.cancel(response.id)).status == "cancelled"


async def was_asked_to_stop(gateway: RunningGateway) -> bool:
    return bool(await gateway.rows("SELECT 1 FROM flotilla.event_outbox WHERE body LIKE '%run_cancel_requested%'"))


async def events_of(client: AsyncOpenAI, response_id: str, after: int | None = None) -> list[dict[str, Any]]:
    options: Any = {} if after is None else {"starting_after": after}
    stream = await client.responses.retrieve(response_id, stream=True, **options)
    return [event.to_dict() async for event in stream]


async def test_stream_is_the_same_live_and_later_whole_and_in_parts_on_every_replica(
    replica: Replica, feed: LiveRunWriter, client_of: ClientOf
) -> None:
    async with replica() as one, replica() as two:
        key = await one.key("olga", ["operator"])
        first, second = await client_of(one, key), await client_of(two, key)
        stream = await first.responses.create(model=MODEL, input="Who?", stream=True)
        (row,) = await runs_of(one, 1)
        live = await one.live(row["run_id"])
        response_id = f"resp_{row['run_id']}"
        other = asyncio.create_task(events_of(second, response_id))
        for token in ("T", "he har", "bour", " ", "master", " [1]."):
            await say(feed, live, token)
        await one.finish(row["run_id"], feed)
        seen = [event.to_dict() async for event in stream]
        assert await other == seen
        assert [event["sequence_number"] for event in seen] == list(range(len(seen)))
        assert [event["type"] for event in seen][:2] == ["response.created", "response.in_progress"]
        assert "".join(str(e["delta"]) for e in seen if e["type"] == "response.output_text.delta") == TEXT
        assert seen[-1]["type"] == "response.completed"
        for after in range(-1, len(seen)):
            assert await events_of(second, response_id, after) == seen[after + 1 :]


async def test_stream_that_a_stopping_replica_ends_continues_on_another_one(
    replica: Replica, feed: LiveRunWriter, client_of: ClientOf
) -> None:
    seen: list[Any] = []
    async with replica() as two:
        key = await two.key("olga", ["operator"])
        second = await client_of(two, key)
        async with replica() as one:
            stream = await (await client_of(one, key)).responses.create(model=MODEL, input="Who?", stream=True)
            (row,) = await runs_of(one, 1)
            reading = asyncio.create_task(collect(stream, seen))
            await say(feed, await one.live(row["run_id"]), "The harbour ")
            await eventually(lambda: any(event.type == "response.output_text.delta" for event in seen))
        await reading
        *first, error = [event.to_dict() for event in seen]
        assert (error["type"], error["sequence_number"]) == ("error", first[-1]["sequence_number"])
        await two.finish(row["run_id"], feed)
        rest = await events_of(second, f"resp_{row['run_id']}", error["sequence_number"])
        assert [*first, *rest] == await events_of(second, f"resp_{row['run_id']}")


async def test_response_of_another_tenant_or_of_nobody_is_not_found(
    gateway: RunningGateway, client: AsyncOpenAI, client_of: ClientOf
) -> None:
    response = await client.responses.create(model=MODEL, input="Who?", background=True)
    stranger = await client_of(gateway, await gateway.key("eve", ["operator", "admin"], tenant="globex"))
    colleague = await client_of(gateway, await gateway.key("carl", ["operator"]))
    for other in (stranger, colleague):
        for ask in (
            other.responses.retrieve(response.id),
            other.responses.cancel(response.id),
            other.responses.create(model=MODEL, input="And?", previous_response_id=response.id),
            other.responses.input_items.list(response.id),
        ):
            with pytest.raises(openai.NotFoundError):
                await ask
        with pytest.raises(openai.NotFoundError) as unknown:
            await other.responses.create(model=MODEL, input="And?", previous_response_id=response.id)
        assert unknown.value.code == "previous_response_not_found"


async def test_raw_stream_ends_with_done(gateway: RunningGateway, key: str, feed: LiveRunWriter) -> None:
    body = {"model": MODEL, "messages": ASKED, "stream": True}
    async with (
        httpx.AsyncClient(headers={"Authorization": f"Bearer {key}"}, trust_env=False, timeout=30) as raw,
        raw.stream("POST", f"{gateway.url}/openai/v1/chat/completions", json=body) as answer,
    ):
        await answer_next(gateway, feed, 1)
        lines = [line async for line in answer.aiter_lines() if line.startswith("data: ")]
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert lines[-1] == "data: [DONE]"
