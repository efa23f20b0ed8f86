"""What a task bought or did is not bought or done again by a later run, whatever the order of its calls."""

import asyncio
from dataclasses import dataclass, field
from typing import Any

import pytest

from flotilla.agent import Agent, TaskContext
from flotilla.bus import Redis
from flotilla.llm import ChatMessage, Completion, CompletionRequest, ModelUnavailable, OnToken
from flotilla.postgres import Pool
from tests.support.adder import Add, Sum, asked
from tests.support.agents import publish, replies, rows, running
from tests.support.waiting import eventually

pytestmark = pytest.mark.usefixtures("session")


@dataclass
class Echo:
    """A model that answers with the question, and counts."""

    name: str = "echo"
    provider: str = "tests"
    asked: list[str] = field(default_factory=list)
    failures: int = 0

    async def complete(self, request: CompletionRequest, on_token: OnToken | None = None) -> Completion:
        question = request.messages[-1].content
        self.asked.append(question)
        if self.failures:
            self.failures -= 1
            raise ModelUnavailable("503")
        return Completion(text=f"<{question}>", model="echo")

    async def close(self) -> None:
        """Nothing to release."""


@dataclass
class Asker:
    """An agent that asks its questions at the same time, in an order of its own, and then waits."""

    questions: list[str]
    goes_on: bool = True
    agent: Agent = field(default_factory=lambda: Agent("adder"))

    def __post_init__(self) -> None:
        @self.agent.task
        async def ask(ctx: TaskContext, _given: Add) -> Sum:
            answers = await asyncio.gather(*(self._answer(ctx, question) for question in self.questions))
            if not self.goes_on:
                await asyncio.Event().wait()
            return Sum(text=" ".join(sorted(answers)))

    async def _answer(self, ctx: TaskContext, question: str) -> str:
        request = CompletionRequest(messages=(ChatMessage(role="user", content=question),))
        try:
            return (await ctx.llm(request)).text
        except ModelUnavailable:
            return (await ctx.llm(request)).text


@dataclass
class ClientAsker(Asker):
    """Asks through OpenAI's client, for a stream."""

    async def _answer(self, ctx: TaskContext, question: str) -> str:
        asked: Any = [{"role": "user", "content": question}]
        stream = await ctx.openai().chat.completions.create(model=ctx.model_name, messages=asked, stream=True)
        return "".join([part.choices[0].delta.content or "" async for part in stream])


async def run_killed_then_whole(
    pool: Pool, redis: Redis, model: Echo, first: list[str], second: list[str], *, asker: type[Asker] = Asker
) -> str:
    """The text of a task that ran to its last line with the questions of `first`, died, and ran again."""
    async with running(asker(first, goes_on=False).agent, pool, redis, model=model, grace_s=0.1):
        await publish(pool, redis, asked())
        await eventually(lambda: _stored(pool, len(first)))
    async with running(asker(second).agent, pool, redis, model=model):
        (reply,) = await eventually(lambda: replies(redis, "done"))
    return str(reply["result"]["text"])


async def _stored(pool: Pool, count: int) -> bool:
    return len(await rows(pool, "SELECT 1 FROM flotilla.llm_calls")) == count


async def test_parallel_answers_are_bought_once_though_their_order_changes(pool: Pool, redis: Redis) -> None:
    model = Echo()
    text = await run_killed_then_whole(pool, redis, model, ["a", "b", "c"], ["c", "b", "a"])
    assert (sorted(model.asked), text) == (["a", "b", "c"], "<a> <b> <c>")


async def test_answers_through_openais_client_are_bought_once(pool: Pool, redis: Redis) -> None:
    model = Echo()
    text = await run_killed_then_whole(pool, redis, model, ["a", "b", "a"], ["b", "a", "a"], asker=ClientAsker)
    assert (sorted(model.asked), text) == (["a", "a", "b"], "<a> <a> <b>")


async def test_equal_requests_of_one_task_are_answers_of_their_own(pool: Pool, redis: Redis) -> None:
    model = Echo()
    text = await run_killed_then_whole(pool, redis, model, ["a", "b", "a"], ["b", "a", "a"])
    assert (sorted(model.asked), text) == (["a", "a", "b"], "<a> <a> <b>")


async def test_an_answer_that_came_at_the_second_attempt_is_found_by_a_run_that_asks_once(
    pool: Pool, redis: Redis
) -> None:
    model = Echo(failures=1)
    await run_killed_then_whole(pool, redis, model, ["a"], ["a"])
    assert model.asked == ["a", "a"]
