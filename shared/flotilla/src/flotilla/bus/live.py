"""Live progress of runs: tokens and steps, on one short-lived stream per run. Losing it loses nothing."""

import asyncio
from collections import deque
from dataclasses import dataclass, replace

import structlog
from redis.exceptions import RedisError

from flotilla.bus.channels import LIVE_RUN_MAXLEN
from flotilla.bus.connection import AWAY, Redis
from flotilla.contracts.envelope import to_json
from flotilla.contracts.live import LiveData, LiveDone, LiveKind, LiveReset, LiveStep, LiveStepStatus, LiveToken
from flotilla.encryption import Cipher, sealed_token

LIVE_RUN_EXPIRES_S = 3_600
_MAX_QUEUED_ENTRIES = 1_000
_WRITE_BATCH_SIZE = 200

log = structlog.get_logger(__name__)


@dataclass(slots=True)
class _LiveRunEntry:
    stream: str
    kind: LiveKind
    data: LiveData
    cipher: Cipher | None = None


class LiveRunWriter:
    """Writes the live streams of runs. Writes travel in the background; tokens that wait meanwhile are joined."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis
        self._waiting: deque[_LiveRunEntry] = deque()
        self._flight: asyncio.Task[None] | None = None

    async def write_token(
        self, stream: str, text: str, *, task_id: str, attempt: int, cipher: Cipher | None = None
    ) -> None:
        """A piece of the answer; encrypted with `cipher`, the session's, if that is given."""
        last = self._waiting[-1] if self._waiting else None
        if last and last.stream == stream and isinstance(last.data, LiveToken) and last.data.task_id == task_id:
            last.data = replace(last.data, text=last.data.text + text)
        else:
            self._queue_entry(
                _LiveRunEntry(stream, "token", LiveToken(text=text, task_id=task_id, attempt=attempt), cipher)
            )
        await asyncio.sleep(0)

    async def write_reset(self, stream: str, *, task_id: str, attempt: int) -> None:
        """Before the tokens of a new attempt: what was shown of this task is void."""
        self._queue_entry(_LiveRunEntry(stream, "reset", LiveReset(task_id=task_id, attempt=attempt)))
        await self.wait_until_written()

    async def write_step(self, stream: str, step: str, status: LiveStepStatus, *, attempt: int, agent: str) -> None:
        """A step began or ended."""
        self._queue_entry(
            _LiveRunEntry(stream, "step", LiveStep(step=step, status=status, attempt=attempt, agent=agent))
        )
        await asyncio.sleep(0)

    async def write_run_ended(self, stream: str, status: str) -> None:
        """The run is over."""
        self._queue_entry(_LiveRunEntry(stream, "done", LiveDone(status=status)))
        await self.wait_until_written()

    async def wait_until_written(self) -> None:
        """Wait until what was given so far is written, or given up."""
        if self._flight is not None:
            await asyncio.wait([self._flight])

    def _queue_entry(self, item: _LiveRunEntry) -> None:
        if len(self._waiting) < _MAX_QUEUED_ENTRIES:
            self._waiting.append(item)
        if self._flight is None or self._flight.done():  # cancelled before it began, it could not report it
            self._flight = asyncio.create_task(self._write_queued_entries(), name="run-feed")

    async def _write_queued_entries(self) -> None:
        try:
            while self._waiting:
                size = min(len(self._waiting), _WRITE_BATCH_SIZE)
                await self._write_entries([self._waiting.popleft() for _ in range(size)])
        finally:
            self._flight = None

    async def _write_entries(self, items: list[_LiveRunEntry]) -> None:
        try:
            async with self._redis.pipeline(transaction=False) as pipe:
                for item in items:
                    data = item.data
                    if isinstance(data, LiveToken):
                        data = sealed_token(item.cipher, data, item.stream)
                    fields = {"kind": item.kind, "data": to_json(data)}
                    pipe.xadd(item.stream, fields, maxlen=LIVE_RUN_MAXLEN)  # type: ignore[arg-type]
                for stream in {item.stream for item in items}:
                    pipe.expire(stream, LIVE_RUN_EXPIRES_S)
                await pipe.execute()
        except (*AWAY, RedisError) as error:
            log.warning("live_feed_lost", entries=len(items), error=str(error))
