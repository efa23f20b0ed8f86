"""Commands of concurrent callers travel in one round trip.

While one pipeline is on its way, new commands queue up; its answer sends them all together. A lone caller pays
nothing for it, two hundred share one write and one read. A command that all of them end with is sent once.
"""

import asyncio
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, TypeAlias

from redis.exceptions import ResponseError

from flotilla.bus.connection import Redis
from flotilla.contracts.errors import RetryLater

Command: TypeAlias = tuple[str | bytes | int, ...]


@dataclass(frozen=True, slots=True)
class SharedCommand:
    """A command that a round trip holds once, with the arguments of all units that end with it: `XACK`, `XLEN`."""

    command: Command
    arguments: Command = ()


@dataclass(frozen=True, slots=True)
class _Unit:
    commands: Sequence[Command]
    last: SharedCommand | None
    answer: "asyncio.Future[list[Any]]"


class CommandBatcher:
    """Sends units of commands. With `atomic` the units of one round trip share a MULTI, so each is all or nothing."""

    def __init__(self, redis: Redis, *, atomic: bool, max_units: int = 512) -> None:
        self._redis = redis
        self._atomic = atomic
        self._max_units = max_units
        self._queue: deque[_Unit] = deque()
        self._flight: asyncio.Task[None] | None = None

    async def send(self, commands: Sequence[Command], last: SharedCommand | None = None) -> list[Any]:
        """The answers to `commands`, in order, and the one to `last`, which counts for all units that share it.

        Raises:
            redis.exceptions.RedisError: the connection failed (whether the commands ran is then unknown), or Redis
                refused one of them.
        """
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[list[Any]] = loop.create_future()
        self._queue.append(_Unit(commands, last, answer))
        if self._flight is None or self._flight.done():  # cancelled before it began, it could not report it
            self._flight = loop.create_task(self._fly(), name="redis-batch")
        return await answer

    async def _fly(self) -> None:
        try:
            while self._queue:
                size = min(len(self._queue), self._max_units)
                await self._deliver([self._queue.popleft() for _ in range(size)])
        finally:
            self._flight = None
            self._abandon()

    def _abandon(self) -> None:
        """Only a cancelled flight leaves anything here: the process is going away."""
        while self._queue:
            _reject(self._queue.popleft(), RetryLater("the connection to Redis is being closed"))

    async def _deliver(self, units: list[_Unit]) -> None:
        try:
            answers = await self._round_trip(units)
        except asyncio.CancelledError:
            for unit in units:
                _reject(unit, RetryLater("the connection to Redis is being closed"))
            raise
        except ResponseError as error:
            # MULTI was refused as a whole because of one command in it; the others must not suffer.
            await self._one_by_one(units, error)
        except Exception as error:  # noqa: BLE001 - each caller gets it
            for unit in units:
                _reject(unit, error)
        else:
            _resolve(units, answers)

    async def _one_by_one(self, units: list[_Unit], error: ResponseError) -> None:
        if len(units) == 1:
            _reject(units[0], error)
            return
        for unit in units:
            await self._deliver([unit])

    async def _round_trip(self, units: list[_Unit]) -> "_Answers":
        shared = _join(units)
        commands = [*chain.from_iterable(unit.commands for unit in units), *shared.values()]
        # A lone command needs no MULTI, which a Redis out of memory refuses even for an acknowledgement.
        async with self._redis.pipeline(transaction=self._atomic and len(commands) > 1) as pipe:
            for command in commands:
                pipe.execute_command(*command)
            answers = await pipe.execute(raise_on_error=False)
        first_shared = len(commands) - len(shared)
        return _Answers(answers[:first_shared], dict(zip(shared, answers[first_shared:], strict=True)))


@dataclass(frozen=True, slots=True)
class _Answers:
    own: list[Any]
    """Of the units' own commands, one unit after the other."""
    shared: dict[Command, Any]


def _join(units: list[_Unit]) -> dict[Command, Command]:
    """What the units end with, each command once and whole."""
    arguments: dict[Command, list[str | bytes | int]] = {}
    for unit in units:
        if unit.last is not None:
            arguments.setdefault(unit.last.command, []).extend(unit.last.arguments)
    return {command: (*command, *rest) for command, rest in arguments.items()}


def _resolve(units: list[_Unit], answers: _Answers) -> None:
    start = 0
    for unit in units:
        mine = answers.own[start : start + len(unit.commands)]
        start += len(unit.commands)
        if unit.last is not None:
            mine.append(answers.shared[unit.last.command])
        if unit.answer.done():
            continue
        failed = next((answer for answer in mine if isinstance(answer, Exception)), None)
        if failed is None:
            unit.answer.set_result(mine)
        else:
            unit.answer.set_exception(failed)


def _reject(unit: _Unit, error: Exception) -> None:
    if not unit.answer.done():
        unit.answer.set_exception(error)
