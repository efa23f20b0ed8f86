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

RedisCommand: TypeAlias = tuple[str | bytes | int, ...]


@dataclass(frozen=True, slots=True)
class SharedCommand:
    """A command that a round trip holds once, with the arguments of all units that end with it: `XACK`, `XLEN`."""

    command: RedisCommand
    arguments: RedisCommand = ()


@dataclass(frozen=True, slots=True)
class _CommandUnit:
    commands: Sequence[RedisCommand]
    last: SharedCommand | None
    answer: "asyncio.Future[list[Any]]"


class CommandBatcher:
    """Sends units of commands. With `atomic` the units of one round trip share a MULTI, so each is all or nothing."""

    def __init__(self, redis: Redis, *, atomic: bool, max_units: int = 512) -> None:
        self._redis = redis
        self._atomic = atomic
        self._max_units = max_units
        self._queue: deque[_CommandUnit] = deque()
        self._flight: asyncio.Task[None] | None = None

    async def send_commands(self, commands: Sequence[RedisCommand], last: SharedCommand | None = None) -> list[Any]:
        """The answers to `commands`, in order, and the one to `last`, which counts for all units that share it.

        Raises:
            redis.exceptions.RedisError: the connection failed (whether the commands ran is then unknown), or Redis
                refused one of them.
        """
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[list[Any]] = loop.create_future()
        self._queue.append(_CommandUnit(commands, last, answer))
        if self._flight is None or self._flight.done():  # cancelled before it began, it could not report it
            self._flight = loop.create_task(self._send_queued_units(), name="redis-batch")
        return await answer

    async def _send_queued_units(self) -> None:
        try:
            while self._queue:
                size = min(len(self._queue), self._max_units)
                await self._send_units([self._queue.popleft() for _ in range(size)])
        finally:
            self._flight = None
            self._reject_queued_units()

    def _reject_queued_units(self) -> None:
        """Only a cancelled flight leaves anything here: the process is going away."""
        while self._queue:
            _reject_unit(self._queue.popleft(), RetryLater("the connection to Redis is being closed"))

    async def _send_units(self, units: list[_CommandUnit]) -> None:
        try:
            answers = await self._round_trip(units)
        except asyncio.CancelledError:
            for unit in units:
                _reject_unit(unit, RetryLater("the connection to Redis is being closed"))
            raise
        except ResponseError as error:
            # MULTI was refused as a whole because of one command in it; the others must not suffer.
            await self._send_one_by_one(units, error)
        except Exception as error:  # noqa: BLE001 - each caller gets it
            for unit in units:
                _reject_unit(unit, error)
        else:
            _resolve_futures(units, answers)

    async def _send_one_by_one(self, units: list[_CommandUnit], error: ResponseError) -> None:
        if len(units) == 1:
            _reject_unit(units[0], error)
            return
        for unit in units:
            await self._send_units([unit])

    async def _round_trip(self, units: list[_CommandUnit]) -> "_Answers":
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
    shared: dict[RedisCommand, Any]


def _join(units: list[_CommandUnit]) -> dict[RedisCommand, RedisCommand]:
    """What the units end with, each command once and whole."""
    arguments: dict[RedisCommand, list[str | bytes | int]] = {}
    for unit in units:
        if unit.last is not None:
            arguments.setdefault(unit.last.command, []).extend(unit.last.arguments)
    return {command: (*command, *rest) for command, rest in arguments.items()}


def _resolve_futures(units: list[_CommandUnit], answers: _Answers) -> None:
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


def _reject_unit(unit: _CommandUnit, error: Exception) -> None:
    if not unit.answer.done():
        unit.answer.set_exception(error)
