"""Long-lived tasks, none of which can end or hang without the process knowing it.

A task that returns, raises or is cancelled before it is asked to stop is started again; one that keeps ending, or that
cannot go on from where it was cut off, ends the process. Done callbacks watch the tasks: a watching task could be
cancelled itself.
"""

import asyncio
import time
from collections import defaultdict, deque
from collections.abc import AsyncIterator, Callable, Collection, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeAlias

import structlog

from flotilla.contracts.errors import ConfigurationError, FlotillaError
from flotilla.runtime.cancellation import cancel_all
from flotilla.runtime.health import Health
from flotilla.telemetry.metrics import TASK_RESTARTS

MOST_ENDS = 5
"""A task that ends more often within `PERIOD_S` ends the process."""
PERIOD_S = 60.0
STUCK_AFTER_S = 120.0
_BACKOFF_S = 0.1

log = structlog.get_logger(__name__)

Work: TypeAlias = Callable[[asyncio.Event], Coroutine[Any, Any, None]]
"""Works until the event is set. Looking at the event, or waiting for it, is the work's sign of life."""


class TaskEnded(FlotillaError):
    """A task without which the process cannot go on has ended: exit, so that the process is started again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """A long-lived task of a process."""

    name: str
    work: Work
    stuck_after_s: float | None = STUCK_AFTER_S
    """Not alive once it has neither looked at its stop event nor waited for it for so long; None: judged elsewhere."""
    restarts: bool = True
    """False: it cannot go on after being cut off anywhere, so its end ends the process."""


class _StopSignal(asyncio.Event):
    """The event `stop` as a job sees it; notes each look at it, and the time spent waiting for it, as signs of life."""

    def __init__(self, stop: asyncio.Event, beat: Callable[[], None], rest: Callable[[], None]) -> None:
        super().__init__()
        self._stop = stop
        self._beat = beat
        self._rest = rest

    def is_set(self) -> bool:
        self._beat()
        return self._stop.is_set()

    def set(self) -> None:
        self._stop.set()

    async def wait(self) -> Any:
        self._rest()
        try:
            return await self._stop.wait()
        finally:
            self._beat()


class JobSupervisor:
    """Runs jobs until `stop`. `request_stop` is called with the reason when the process has to end."""

    def __init__(self, health: Health, stop: asyncio.Event, request_stop: Callable[[str], None]) -> None:
        self._health = health
        self._stop = stop
        self._request_stop = request_stop
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._ends: defaultdict[str, deque[float]] = defaultdict(deque)
        self._idle = asyncio.Event()
        self._idle.set()
        self._failure: Exception | None = None

    @property
    def running_tasks(self) -> dict[str, "asyncio.Task[None]"]:
        """The tasks that live now, by job."""
        return dict(self._tasks)

    async def run(self, *jobs: Job, limit_s: float, cut_off: Callable[[], None] = lambda: None) -> None:
        """Run `jobs` until all have ended, which they do once asked to stop.

        Those that have not ended `limit_s` later are cancelled, after a call of `cut_off`.

        Raises:
            TaskEnded: a job ended too often, or one that cannot be started again.
            ConfigurationError: a job raised it.
        """
        async with self.running_jobs(*jobs, limit_s=limit_s, cut_off=cut_off):
            await self._stop.wait()

    @asynccontextmanager
    async def running_jobs(
        self, *jobs: Job, limit_s: float, cut_off: Callable[[], None] = lambda: None
    ) -> AsyncIterator[None]:
        """Run `jobs` beside the block, which should end soon after `stop`; stop them after it. See `run`."""
        for job in jobs:
            self.start_job(job)
        try:
            yield
        finally:
            self._stop.set()
            await self._wind_up(limit_s, cut_off)
        if self._failure is not None:
            raise self._failure

    def start_job(self, job: Job, stop: asyncio.Event | None = None) -> "asyncio.Task[None]":
        """Start one job, and again after each end before `stop`: the process's own, unless given."""
        stop = stop or self._stop
        self._idle.clear()
        if job.stuck_after_s is not None:
            self._health.expect_progress(job.name, job.stuck_after_s)
        self._health.task_started(job.name)
        signal = _StopSignal(stop, partial(self._health.note_progress, job.name), partial(self._health.rest, job.name))
        task = asyncio.create_task(self._work(job, signal), name=job.name)
        self._tasks[job.name] = task
        task.add_done_callback(partial(self._ended, job, stop))
        return task

    async def end(self, names: Collection[str], within_s: float) -> None:
        """Wait for the jobs `names`, which were asked to stop, and cancel those that do not end `within_s`."""
        tasks = [self._tasks[name] for name in names if name in self._tasks]
        if tasks:
            await asyncio.wait(tasks, timeout=within_s)
        await cancel_all(tasks)

    def task_ended_early(self, name: str, task: "asyncio.Task[Any]") -> None:
        """End the process: `task`, which was not made here, has ended before its time."""
        self._health.task_ended(name, _reason(task))
        self._give_up(name, task)

    async def _work(self, job: Job, stop: asyncio.Event) -> None:
        await job.work(stop)

    def _ended(self, job: Job, stop: asyncio.Event, task: "asyncio.Task[None]") -> None:
        del self._tasks[job.name]
        self._health.stop_expecting(job.name)
        if stop.is_set():
            self._note_last_words(job.name, task)
            self._check_idle()
            return
        TASK_RESTARTS.labels(job.name).inc()
        self._health.task_ended(job.name, _reason(task))
        error = _error(task)
        if isinstance(error, ConfigurationError) or not job.restarts or self._ends_too_often(job.name):
            self._give_up(job.name, task)
            return
        delay_s = _BACKOFF_S * 2 ** (len(self._ends[job.name]) - 1)
        log.error("task_restarts", task=job.name, reason=_reason(task), after_s=delay_s, exc_info=error)
        asyncio.get_running_loop().call_later(delay_s, self._restart, job, stop)

    def _ends_too_often(self, name: str) -> bool:
        ends, now = self._ends[name], time.monotonic()
        ends.append(now)
        while now - ends[0] > PERIOD_S:
            ends.popleft()
        return len(ends) > MOST_ENDS

    def _restart(self, job: Job, stop: asyncio.Event) -> None:
        if stop.is_set():
            self._health.task_started(job.name)
            self._check_idle()
        else:
            self.start_job(job, stop)

    def _give_up(self, name: str, task: "asyncio.Task[Any]") -> None:
        error, what = _error(task), f"task {name} {_reason(task)}"
        log.error("task_ended", task=name, reason=_reason(task), exc_info=error)
        if self._failure is None:
            self._failure = error if isinstance(error, ConfigurationError) else TaskEnded(what)
        self._request_stop(what)
        self._check_idle()

    def _note_last_words(self, name: str, task: "asyncio.Task[None]") -> None:
        error = _error(task)
        if error is not None:
            log.error("task_failed_to_stop", task=name, exc_info=error)
            self._failure = self._failure or TaskEnded(f"task {name} {_reason(task)}")

    def _check_idle(self) -> None:
        if not self._tasks:
            self._idle.set()

    async def _wind_up(self, limit_s: float, cut_off: Callable[[], None]) -> None:
        try:
            async with asyncio.timeout(limit_s):
                await self._idle.wait()
        except TimeoutError:
            log.warning("drain_cut_off", limit_s=limit_s, tasks=sorted(self._tasks))
            cut_off()
        finally:
            await cancel_all(self._tasks.values())


def _error(task: "asyncio.Task[Any]") -> BaseException | None:
    return None if task.cancelled() else task.exception()


def _reason(task: "asyncio.Task[Any]") -> str:
    if task.cancelled():
        return "was cancelled"
    error = task.exception()
    return "returned" if error is None else f"failed: {type(error).__name__}: {error}"
