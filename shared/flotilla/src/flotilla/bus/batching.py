"""Commands of concurrent callers travel in one round trip.

While one pipeline is on its way, new commands queue up; its answer sends them all together. A lone caller pays
nothing for it, two hundred share one write and one read.
"""

import asyncio
from collections import deque
from collections.abc import Sequence
from typing import Any, TypeAlias

from redis.exceptions import ResponseError

from flotilla.bus.connection import Redis
from flotilla.contracts.errors import RetryLater

Command: TypeAlias = tuple[str | bytes | int, ...]
_Unit: TypeAlias = tuple[Sequence[Command], "asyncio.Future[list[Any]]"]


class CommandBatcher:
    """Sends units of commands. With `atomic` the units of one round trip share a MULTI, so each is all or nothing."""

    def __init__(self, redis: Redis, *, atomic: bool, max_units: int = 512) -> None:
        self._redis = redis
        self._atomic = atomic
        self._max_units = max_units
        self._queue: deque[_Unit] = deque()
        self._flight: asyncio.Task[None] | None = None

    async def send(self, commands: Sequence[Command]) -> list[Any]:
        """The answers to `commands`, in order.

        Raises:
            redis.exceptions.RedisError: the connection failed (whether the commands ran is then unknown), or Redis
                refused one of them.
        """
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[list[Any]] = loop.create_future()
        self._queue.append((commands, answer))
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

    async def _round_trip(self, units: list[_Unit]) -> list[Any]:
        # A lone command needs no MULTI, which a Redis out of memory refuses even for an acknowledgement.
        transaction = self._atomic and (len(units) > 1 or len(units[0][0]) > 1)
        async with self._redis.pipeline(transaction=transaction) as pipe:
            for commands, _ in units:
                for command in commands:
                    pipe.execute_command(*command)
            return await pipe.execute(raise_on_error=False)


def _resolve(units: list[_Unit], answers: list[Any]) -> None:
    start = 0
    for commands, future in units:
        mine = answers[start : start + len(commands)]
        start += len(commands)
        if future.done():
            continue
        failed = next((answer for answer in mine if isinstance(answer, Exception)), None)
        if failed is None:
            future.set_result(mine)
        else:
            future.set_exception(failed)


def _reject(unit: _Unit, error: Exception) -> None:
    future = unit[1]
    if not future.done():
        future.set_exception(error)
