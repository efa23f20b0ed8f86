"""`ctx.openai()`: OpenAI's own client inside a task, at a real endpoint."""

import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import openai
import pytest

from flotilla.agent import Agent, ApprovalPending, TaskCancelled, TaskContext
from flotilla.contracts.errors import ConfigurationError
from flotilla.contracts.tasks import ApprovalNeeded
from flotilla.llm import LanguageModel, ModelUnavailable, TokenBudgetSpent, create_model
from flotilla.testing import FakeModel, TaskRun, run_task
from tests.contract.llm.test_language_models import settings
from tests.support.scripted_endpoint import ScriptedEndpoint, call, chunk, events, finished, running_endpoint

SAID: list[Any] = [{"role": "user", "content": "Who may approve a refund?"}]
NEEDED = ApprovalNeeded(approval_id="a1", action="asker.pay", description="pay", args={}, risk_level="low")
Ask = Callable[[TaskContext], Awaitable[Any]]


@asynccontextmanager
async def model_at(endpoint: ScriptedEndpoint, **changed: Any) -> AsyncIterator[LanguageModel]:
    async with running_endpoint(endpoint):
        model = create_model(settings(endpoint.url).model_copy(update=changed))
        yield model
        await model.close()


async def run(ask: Ask, model: LanguageModel | None, **options: Any) -> TaskRun[Any]:
    """One run of an agent that does `ask`, whose outcome is its result under `said`."""
    agent = Agent("asker")

    @agent.task
    async def work(ctx: TaskContext, _given: dict[str, Any]) -> dict[str, Any]:
        return {"said": await ask(ctx)}

    return await run_task(agent, {}, model=model, **options)


async def run_at(ask: Ask, *documents: Any, **changed: Any) -> tuple[TaskRun[Any], list[dict[str, Any]]]:
    """The run, and the bodies that the endpoint got."""
    endpoint = ScriptedEndpoint(events(*documents))
    async with model_at(endpoint, **changed) as model:
        return await run(ask, model), endpoint.requests


async def whole(ctx: TaskContext, **fields: Any) -> Any:
    return (await ctx.openai().chat.completions.create(model=ctx.model_name, messages=SAID, **fields)).model_dump()


async def streamed(ctx: TaskContext, **fields: Any) -> list[Any]:
    stream = await ctx.openai().chat.completions.create(model="default", messages=SAID, stream=True, **fields)
    return [part.model_dump() async for part in stream]


async def test_everything_that_decides_the_answer_reaches_the_endpoint_as_it_was_written() -> None:
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA", "detail": "low"}}
    asked: dict[str, Any] = {
        "messages": [*SAID, {"role": "user", "content": [{"type": "text", "text": "this one"}, image]}],
        "response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "object"}}},
        "seed": 7,
        "tools": [{"type": "function", "function": {"name": "look", "parameters": {"type": "object"}, "strict": True}}],
        "tool_choice": {"type": "function", "function": {"name": "look"}},
        "parallel_tool_calls": False,
        "reasoning_effort": "low",
        "temperature": 0.5,
        "max_completion_tokens": 99,
        "extra_body": {"top_k": 20},
    }

    async def ask(ctx: TaskContext) -> Any:
        await ctx.openai().chat.completions.create(model="default", **asked)

    done, (sent,) = await run_at(ask, "yes", *finished())
    assert done.failure is None
    expected = {**asked, "model": "m", "stream": True, "stream_options": {"include_usage": True}, "top_k": 20}
    del expected["extra_body"]
    assert sent == expected


async def test_an_answer_has_what_the_endpoint_said_of_it() -> None:
    usage = {"prompt_tokens": 20, "completion_tokens": 7, "prompt_tokens_details": {"cached_tokens": 16}}
    token = {"token": "Marta", "logprob": -0.5, "bytes": None, "top_logprobs": []}
    first = {"choices": [{"delta": {"content": "Marta"}, "logprobs": {"content": [token]}}]}
    done, _ = await run_at(
        whole, chunk(reasoning_content="I look"), chunk(reasoning_content=" it up."), first, *finished(usage=usage)
    )
    choice = done.result["said"]["choices"][0]
    assert (choice["message"]["content"], choice["finish_reason"]) == ("Marta", "stop")
    assert choice["message"]["reasoning_content"] == "I look it up."
    assert choice["logprobs"]["content"][0]["logprob"] == -0.5
    assert done.result["said"]["usage"]["prompt_tokens_details"]["cached_tokens"] == 16


async def test_text_is_streamed_to_the_caller_and_to_those_who_watch() -> None:
    done, _ = await run_at(
        lambda ctx: streamed(ctx, stream_options={"include_usage": True}),
        "Marta ",
        "Quill.",
        call("look", '{"a": ', id="c1", index=0),
        call(None, "1}", index=0),
        *finished(),
    )
    parts = done.result["said"]
    texts = [part["choices"][0]["delta"]["content"] for part in parts if part["choices"]]
    assert [text for text in texts if text] == ["Marta ", "Quill."]
    calls = [part["choices"][0]["delta"]["tool_calls"] for part in parts if part["choices"]]
    (asked,) = [found for found in calls if found]
    assert asked[0]["function"] == {"name": "look", "arguments": '{"a": 1}'}
    assert [part["choices"][0]["finish_reason"] for part in parts if part["choices"]][-1] == "tool_calls"
    assert parts[-1]["usage"]["total_tokens"] == 27
    assert done.tokens == "Marta Quill."


async def test_streamed_text_stays_with_the_caller_where_the_author_wants_it_to() -> None:
    async def ask(ctx: TaskContext) -> str:
        stream = await ctx.openai(show=False).chat.completions.create(model="default", messages=SAID, stream=True)
        return "".join([part.choices[0].delta.content or "" async for part in stream])

    done, _ = await run_at(ask, "Marta ", "Quill.", *finished())
    assert (done.result["said"], done.tokens) == ("Marta Quill.", "")


@pytest.mark.parametrize("ask", [whole, streamed])
async def test_an_empty_or_cut_off_answer_is_the_frameworks_to_judge(ask: Ask) -> None:
    done, _ = await run_at(ask, call("look", '{"a": ', id="c1"), *finished("length"))
    said = done.result["said"]
    choices = [part["choices"][0] for part in (said if isinstance(said, list) else [said]) if part["choices"]]
    assert choices[-1]["finish_reason"] == "length"


@pytest.mark.parametrize("ask", [whole, streamed])
@pytest.mark.parametrize(
    ("status", "error", "kind"),
    [
        (429, openai.InternalServerError, ModelUnavailable),
        (401, openai.BadRequestError, "ModelRefused"),
    ],
)
async def test_a_refusal_is_openais_error_and_the_task_fails_with_what_lies_under_it(
    ask: Ask, status: int, error: type[Exception], kind: Any
) -> None:
    endpoint = ScriptedEndpoint([json.dumps({"error": {"message": "no"}}).encode()], status, "application/json")
    caught: list[Exception] = []

    async def catch(ctx: TaskContext) -> Any:
        try:
            return await ask(ctx)
        except openai.APIError as raised:
            caught.append(raised)
            raise ExceptionGroup("two of them", [RuntimeError("wrapped"), raised]) from None

    async with model_at(endpoint) as model:
        done = await run(catch, model)
    assert [type(found) for found in caught] == [error]
    assert done.failure is not None
    assert done.failure.type == (kind if isinstance(kind, str) else kind.__name__)
    assert done.failure.retryable is (status == 429)
    assert len(endpoint.requests) == 1  # the client tried nothing again by itself


async def test_a_stream_that_breaks_off_is_an_error_for_the_caller() -> None:
    endpoint = ScriptedEndpoint(events("Marta ", done=False))
    async with model_at(endpoint) as model:
        done = await run(streamed, model)
    assert done.failure is not None
    assert (done.failure.type, done.failure.retryable) == ("ModelUnavailable", True)


async def test_a_spent_budget_is_the_quota_error_and_not_tried_again() -> None:
    done = await run(whole, FakeModel(TokenBudgetSpent("100 of 100 tokens are used")))
    assert done.failure is not None
    assert (done.failure.type, done.failure.retryable) == ("TokenBudgetSpent", False)
    assert done.failure.message == "100 of 100 tokens are used"


async def test_a_cancelled_task_ends_so_though_the_client_wraps_the_error() -> None:
    class Slow(FakeModel):
        async def complete(self, *_: Any) -> Any:
            raise TaskCancelled("task-1")

    assert (await run(whole, Slow())).status == "cancelled"


@pytest.mark.parametrize(
    "use",
    [
        lambda client: client.responses.create(model="default", input="hello"),
        lambda client: client.embeddings.create(model="default", input="hello"),
        lambda client: client.files.list(),
        lambda client: client.chat.completions.create(model="another", messages=SAID),
    ],
)
async def test_what_is_not_offered_is_refused_in_openais_form(use: Any) -> None:
    model = FakeModel()

    async def ask(ctx: TaskContext) -> str:
        with pytest.raises(openai.NotFoundError) as refused:
            await use(ctx.openai())
        return str(refused.value.body)

    said = (await run(ask, model)).result["said"]
    assert "chat completions" in said or "FLOTILLA_LLM_MODEL" in said
    assert model.requests == []


@pytest.mark.parametrize(
    "fields",
    [
        {"n": 2},
        {"modalities": ["text", "audio"]},
        {"messages": []},
        {"messages": ["hello"]},
        {"max_tokens": -1},
        {"max_tokens": 0},
        {"max_tokens": "100000"},
        {"max_tokens": True},
        {"max_completion_tokens": -1_000_000},
        {"max_completion_tokens": 1, "max_tokens": 100_000},
    ],
)
async def test_a_request_for_what_is_not_one_answer_in_text_is_refused(fields: dict[str, Any]) -> None:
    async def ask(ctx: TaskContext) -> str:
        with pytest.raises(openai.BadRequestError) as refused:
            await ctx.openai().chat.completions.create(**{"model": "default", "messages": SAID, **fields})
        return str(refused.value.body)

    assert next(iter(fields)) in (await run(ask, FakeModel())).result["said"]


async def test_no_model_is_asked_once_the_task_waits_for_people_though_a_framework_caught_that() -> None:
    model = FakeModel("bought in vain")

    async def ask(ctx: TaskContext) -> None:
        ctx.gated.needed.append(NEEDED)
        with pytest.raises(ApprovalPending):
            await whole(ctx)

    done = await run(ask, model)
    assert done.failure is not None
    assert (done.failure.type, model.requests) == ("ApprovalRequired", [])


async def test_models_are_listed() -> None:
    async def ask(ctx: TaskContext) -> list[str]:
        return [model.id async for model in ctx.openai().models.list()]

    assert (await run(ask, FakeModel())).result["said"] == ["default", "fake"]


async def test_agent_without_a_model_is_refused_at_once() -> None:
    done = await run(whole, None)
    assert done.failure is not None
    assert done.failure.type == ConfigurationError.__name__
