"""Order, cancellation and parking, without any server."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from flotilla.contracts.orders import SagaStepState
from flotilla.saga import NotParked, Saga, UnknownStep


class World:
    """Remembers what was done and fails where told."""

    def __init__(self) -> None:
        self.done: list[str] = []
        self.told: list[tuple[str, str]] = []
        self.failures: dict[str, int] = {}
        self.waits: dict[str, asyncio.Event] = {}
        self.saga = Saga(self.record)

    async def record(self, _steps: list[SagaStepState], changed: SagaStepState) -> None:
        self.told.append((changed.name, changed.status))

    def does(self, name: str) -> Callable[[], Awaitable[str]]:
        async def act() -> str:
            if name in self.waits:
                await self.waits[name].wait()
            if self.failures.get(name, 0):
                self.failures[name] -= 1
                raise ValueError(f"{name} failed")
            self.done.append(name)
            return name

        return act

    async def forward(self, *names: str) -> None:
        for name in names:
            undo = f"undo_{name}"
            await self.saga.step(name, self.does(name), compensation=undo, undo=self.does(undo))

    async def run(self, *names: str) -> None:
        try:
            await self.forward(*names)
        except (ValueError, asyncio.CancelledError):
            await self.saga.compensate()

    def statuses(self) -> list[str]:
        return [step.status for step in self.saga.steps]


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(2):
        while not condition():  # noqa: ASYNC110 - a pure loop, nothing to wait on
            await asyncio.sleep(0)


async def test_steps_that_succeed_are_not_undone() -> None:
    world = World()
    await world.run("a", "b")
    assert (world.done, world.statuses()) == (["a", "b"], ["done", "done"])


async def test_a_failed_step_is_undone_too_and_all_in_reverse() -> None:
    world = World()
    world.failures["c"] = 1
    await world.run("a", "b", "c", "d")
    assert world.done == ["a", "b", "undo_c", "undo_b", "undo_a"]
    assert world.statuses() == ["compensated"] * 3
    assert world.saga.steps[2].error == "c failed"


async def test_a_compensation_that_fails_waits_for_an_operator() -> None:
    world = World()
    world.failures = {"b": 1, "undo_b": 2}
    running = asyncio.create_task(world.run("a", "b"))
    await until(lambda: world.saga.is_parked)
    assert world.statuses() == ["done", "parked"]
    world.saga.apply_operator_verb("b", "retry")
    assert not world.saga.is_parked
    with pytest.raises(NotParked):
        world.saga.apply_operator_verb("b", "skip")
    await until(lambda: world.saga.is_parked)
    world.saga.apply_operator_verb("2", "retry")
    await running
    assert world.done == ["a", "undo_b", "undo_a"]


@pytest.mark.parametrize(("verb", "status"), [("skip", "skipped"), ("resolve", "resolved")])
async def test_an_operator_can_give_a_compensation_up_or_do_it_by_hand(verb: str, status: str) -> None:
    world = World()
    world.failures = {"b": 1, "undo_b": 9}
    running = asyncio.create_task(world.run("a", "b"))
    await until(lambda: world.saga.is_parked)
    world.saga.apply_operator_verb("undo_b", verb)  # type: ignore[arg-type]
    await running
    assert world.statuses() == ["compensated", status]
    assert ("b", status) in world.told


async def test_a_verb_for_a_step_that_does_not_exist_or_wait_is_refused() -> None:
    world = World()
    await world.run("a")
    with pytest.raises(UnknownStep):
        world.saga.apply_operator_verb("z", "retry")
    with pytest.raises(NotParked):
        world.saga.apply_operator_verb("a", "retry")


async def test_cancelling_stops_the_step_in_hand_and_undoes_it() -> None:
    world = World()
    world.waits["b"] = asyncio.Event()
    running = asyncio.create_task(world.run("a", "b", "c"))
    await until(lambda: len(world.saga.steps) == 2)
    await asyncio.sleep(0)
    assert world.saga.cancel_forward_steps()
    await running
    assert world.done == ["a", "undo_b", "undo_a"]
    assert not world.saga.cancel_forward_steps()


async def test_a_cancellation_of_the_task_around_it_cannot_stop_the_undoing() -> None:
    world = World()
    world.failures["b"] = 1
    world.waits["undo_a"] = asyncio.Event()
    running = asyncio.create_task(world.run("a", "b"))
    await until(lambda: "undo_b" in world.done)
    for _ in range(3):
        running.cancel()
        await asyncio.sleep(0)
    world.waits["undo_a"].set()
    await running
    assert world.done == ["a", "undo_b", "undo_a"]


@pytest.mark.parametrize("turns", range(12))
async def test_a_cancellation_at_any_moment_leaves_nothing_half_done(turns: int) -> None:
    world = World()
    running = asyncio.create_task(world.run("a", "b"))
    for _ in range(turns):
        await asyncio.sleep(0)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    done = [name for name in world.done if not name.startswith("undo_")]
    assert world.statuses() == ["done"] * 2 or [f"undo_{name}" for name in reversed(done)] == [
        name for name in world.done if name.startswith("undo_") and name.removeprefix("undo_") in done
    ]
