"""A chain of models: who answers, when one is left alone, and that calls queue for their turn."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from flotilla.contracts.tasks import TokenUsage
from flotilla.llm import ChatMessage, Completion, CompletionRequest, ModelRefused, ModelTimedOut, ModelUnavailable
from flotilla.llm.chain import Link, ModelChain
from flotilla.llm.circuit import FAILURES, OPEN_S, AdmittedCall, CircuitBreaker
from flotilla.llm.pace import LONGEST_QUEUE_S, Pace
from flotilla.testing import FakeModel

REQUEST = CompletionRequest(messages=(ChatMessage(role="user", content="hello"),))


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class Named(FakeModel):
    """A model with a name of its own; `torn` breaks off after some text."""

    def __init__(self, name: str, *answers: Any, torn: bool = False) -> None:
        super().__init__(*answers)
        self.name = name
        self.torn = torn

    async def complete(self, request: CompletionRequest, on_token: Any = None) -> Completion:
        if self.torn:
            await on_token("Marta ")
            raise ModelUnavailable("broke off")
        return await super().complete(request, on_token)


def chain(*models: Named, clock: Callable[[], float] | None = None) -> ModelChain:
    return ModelChain(
        [Link(m, Pace(m.name, None), CircuitBreaker(clock) if clock else CircuitBreaker()) for m in models]
    )


@pytest.mark.parametrize(
    ("error", "reason"), [(ModelUnavailable("429"), "unavailable"), (ModelTimedOut("late"), "timed_out")]
)
async def test_the_next_model_answers_where_one_can_not_and_that_is_recorded(
    error: ModelUnavailable, reason: str
) -> None:
    error.usage = TokenUsage(input_tokens=7)
    made = await chain(Named("a", error), Named("b", "hello")).complete(REQUEST)
    assert (made.text, made.answered_by) == ("hello", "b")
    assert [(one.model, one.reason, one.usage) for one in made.fallbacks] == [("a", reason, TokenUsage(input_tokens=7))]


async def test_a_refusal_is_final() -> None:
    second = Named("b", "hello")
    with pytest.raises(ModelRefused) as refused:
        await chain(Named("a", ModelRefused("too long")), second).complete(REQUEST)
    assert (refused.value.model, second.requests) == ("a", [])


async def test_no_answer_is_of_two_models() -> None:
    second = Named("b", "hello")
    with pytest.raises(ModelUnavailable, match="broke off"):
        await chain(Named("a", torn=True), second).complete(REQUEST)
    assert second.requests == []


async def test_the_last_error_is_raised_where_no_model_can() -> None:
    with pytest.raises(ModelUnavailable, match="second") as error:
        await chain(Named("a", ModelUnavailable("first")), Named("b", ModelUnavailable("second"))).complete(REQUEST)
    assert error.value.model == "b"


async def test_a_model_that_keeps_failing_is_left_alone_then_tried_by_one_call() -> None:
    clock = Clock()
    first = Named("a", *[ModelUnavailable("500")] * FAILURES, ModelUnavailable("still"), "back")
    models = chain(first, Named("b", *["b"] * 20), clock=clock)
    for _ in range(FAILURES + 3):
        await models.complete(REQUEST)
    assert len(first.requests) == FAILURES
    clock.now += OPEN_S + 1
    both = await asyncio.gather(models.complete(REQUEST), models.complete(REQUEST))
    assert (len(first.requests), [one.text for one in both]) == (FAILURES + 1, ["b", "b"])
    clock.now += OPEN_S + 1
    assert [(await models.complete(REQUEST)).text for _ in range(1)] == ["back"]


async def test_a_model_that_names_a_time_is_left_alone_for_so_long_at_once() -> None:
    clock = Clock()
    first = Named("a", ModelUnavailable("429", retry_after_s=20), "back")
    models = chain(first, clock=clock)
    with pytest.raises(ModelUnavailable, match="429"):
        await models.complete(REQUEST)
    with pytest.raises(ModelUnavailable, match="left alone") as error:
        await models.complete(REQUEST)
    assert error.value.retry_after_s == 20
    clock.now += 21
    assert (await models.complete(REQUEST)).text == "back"


async def test_a_cancelled_trial_leaves_the_circuit_to_the_next_call() -> None:
    circuit = CircuitBreaker(clock := Clock())
    for _ in range(FAILURES):
        circuit.record_failure(AdmittedCall(is_trial=False), ModelUnavailable("500"))
    clock.now += OPEN_S + 1
    trial = circuit.admit_call()
    assert trial == AdmittedCall(is_trial=True)
    assert circuit.admit_call() is None
    circuit.record_abandoned(trial)
    assert circuit.admit_call() == AdmittedCall(is_trial=True)


async def test_a_call_from_before_does_not_end_the_trial() -> None:
    circuit = CircuitBreaker(clock := Clock())
    before = circuit.admit_call()
    assert before is not None
    for _ in range(FAILURES):
        circuit.record_failure(AdmittedCall(is_trial=False), ModelUnavailable("500"))
    clock.now += OPEN_S + 1
    assert circuit.admit_call() == AdmittedCall(is_trial=True)
    circuit.record_abandoned(before)
    assert circuit.admit_call() is None


async def test_a_call_without_a_turn_in_the_queue_leaves_the_circuit_closed() -> None:
    circuit, busy, model = CircuitBreaker(Clock()), Pace("a", 0.5, Clock()), Named("a", "hello")
    models = ModelChain([Link(model, busy, circuit)])
    assert (await models.complete(REQUEST)).text == "hello"
    with pytest.raises(ModelUnavailable, match="rate limit"):
        await models.complete(REQUEST)
    assert circuit.retry_in_s == 0


async def test_a_call_that_was_cancelled_in_the_queue_takes_no_turn() -> None:
    pace = Pace("a", 60_000, clock := Clock())
    await pace.turn()
    pace._next_at = clock.now + 30
    waiting = asyncio.create_task(pace.turn())
    await asyncio.sleep(0)
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    assert pace._next_at == clock.now + 30
    assert pace._waiting == 0


async def test_calls_queue_for_their_turn_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[float] = []

    async def sleep(seconds: float) -> None:
        waits.append(round(seconds, 3))

    monkeypatch.setattr(asyncio, "sleep", sleep)
    pace = Pace("a", 60, Clock())
    for _ in range(4):
        await pace.turn()
    assert waits == [1.0, 2.0, 3.0]


async def test_a_queue_of_more_than_a_minute_is_for_the_next_model(monkeypatch: pytest.MonkeyPatch) -> None:
    async def sleep(_seconds: float) -> None:
        """At once."""

    monkeypatch.setattr(asyncio, "sleep", sleep)
    pace = Pace("a", 1, Clock())
    for _ in range(2):
        await pace.turn()
    with pytest.raises(ModelUnavailable, match="rate limit") as error:
        await pace.turn()
    assert error.value.retry_after_s == 2 * LONGEST_QUEUE_S
