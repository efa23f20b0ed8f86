"""No long-lived task ends or hangs without the process knowing it."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest
from prometheus_client import REGISTRY

from flotilla.config import ServiceSettings
from flotilla.contracts.errors import ConfigurationError
from flotilla.runtime import Job, Runtime, TaskEnded, supervision
from flotilla.runtime.service import EXIT_FAILED, EXIT_MISUSE, EXIT_OK, _serve
from flotilla.runtime.supervision import MOST_ENDS, Work
from tests.support.waiting import eventually

End = Callable[[], Awaitable[None]]


@pytest.fixture
def runtime() -> Runtime:
    return Runtime("test")


async def returns() -> None:
    """Ends without a word."""


async def fails() -> None:
    raise ValueError("broken")


async def is_cancelled() -> None:
    task = asyncio.current_task()
    assert task is not None
    task.cancel()
    await asyncio.sleep(1)


ENDS = pytest.mark.parametrize("end", [returns, fails, is_cancelled])


def ending(end: End, times: int, starts: list[int]) -> Work:
    """Work that ends before its time, `times` times."""

    async def work(stop: asyncio.Event) -> None:
        starts.append(len(starts))
        if len(starts) <= times:
            await end()
        else:
            await stop.wait()

    return work


@ENDS
async def test_a_task_that_ends_is_started_again_and_liveness_counts_it(runtime: Runtime, end: End) -> None:
    starts: list[int] = []
    name = f"job-{end.__name__}"
    running = asyncio.create_task(runtime.supervisor.run(Job(name=name, work=ending(end, 1, starts)), limit_s=1))
    await eventually(lambda: runtime.health.liveness()["ended"])
    assert runtime.health.liveness()["status"] == "ended"
    await eventually(lambda: len(starts) == 2)
    assert runtime.health.liveness() == {"status": "ok", "stuck": [], "ended": {}, "restarts": {name: 1}}
    assert REGISTRY.get_sample_value("flotilla_task_restarts_total", {"task": name}) == 1
    runtime.stop.set()
    await running


@ENDS
async def test_a_task_that_keeps_ending_ends_the_process(
    runtime: Runtime, end: End, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervision, "_BACKOFF_S", 0.001)
    starts: list[int] = []
    with pytest.raises(TaskEnded, match="task job "):
        await runtime.supervisor.run(Job(name="job", work=ending(end, 100, starts)), limit_s=1)
    assert len(starts) == MOST_ENDS + 1
    assert runtime.stop.is_set()
    assert runtime.health.liveness()["status"] == "ended"


@ENDS
async def test_a_task_that_cannot_be_started_again_ends_the_process_and_the_others_drain(
    runtime: Runtime, end: End
) -> None:
    drained = asyncio.Event()

    async def other(stop: asyncio.Event) -> None:
        await stop.wait()
        drained.set()

    with pytest.raises(TaskEnded, match="task job "):
        await runtime.supervisor.run(
            Job(name="job", work=ending(end, 1, []), restarts=False), Job(name="other", work=other), limit_s=1
        )
    assert drained.is_set()
    assert "job" in runtime.health.liveness()["ended"]


async def test_a_wrong_setting_is_not_tried_again(runtime: Runtime) -> None:
    async def refuse(stop: asyncio.Event) -> None:
        raise ConfigurationError("set another")

    with pytest.raises(ConfigurationError, match="set another"):
        await runtime.supervisor.run(Job(name="job", work=refuse), limit_s=1)


async def test_a_task_that_does_not_look_at_its_stop_event_is_stuck(runtime: Runtime) -> None:
    looks, go_on = asyncio.Event(), asyncio.Event()

    async def hang(stop: asyncio.Event) -> None:
        while not stop.is_set():
            await looks.wait()
            await stop.wait() if go_on.is_set() else await go_on.wait()

    job = Job(name="job", work=hang, stuck_after_s=0.05)
    async with runtime.supervisor.running_jobs(job, limit_s=1):
        await eventually(lambda: runtime.health.stuck_loops() == ["job"])
        looks.set()
        go_on.set()
        await eventually(lambda: runtime.health.stuck_loops() == [])


async def test_a_task_that_waits_for_its_stop_event_may_wait_indefinitely(runtime: Runtime) -> None:
    async def rest(stop: asyncio.Event) -> None:
        await stop.wait()

    async with runtime.supervisor.running_jobs(Job(name="job", work=rest, stuck_after_s=0.0), limit_s=1):
        await eventually(lambda: runtime.supervisor.running_tasks)
        await asyncio.sleep(0)
        assert runtime.health.stuck_loops() == []


async def test_tasks_that_do_not_stop_in_time_are_cut_off(runtime: Runtime) -> None:
    cut: list[str] = []

    async def deaf(_stop: asyncio.Event) -> None:
        await asyncio.Event().wait()

    runtime.stop.set()
    job = Job(name="job", work=deaf)
    await runtime.supervisor.run(job, limit_s=0.01, cut_off=lambda: cut.append("off"))
    assert cut == ["off"]
    assert runtime.supervisor.running_tasks == {}


async def test_a_job_with_a_stop_event_of_its_own_ends_by_it(runtime: Runtime) -> None:
    over = asyncio.Event()
    runtime.supervisor.start_job(Job(name="duty", work=ending(returns, 0, [])), over)
    over.set()
    await runtime.supervisor.end(["duty"], within_s=1)
    assert runtime.supervisor.running_tasks == {}
    assert runtime.health.liveness()["restarts"] == {}
    assert not runtime.stop.is_set()


async def serve_a_job(end: End | None, *, restarts: bool = True) -> int:
    async def run(_settings: ServiceSettings, runtime: Runtime) -> None:
        if end is None:
            runtime.request_stop("done")
        job = Job(name="job", work=ending(end or returns, 1 if end else 0, []), restarts=restarts)
        await runtime.supervisor.run(job, limit_s=1)

    return await _serve("test", ServiceSettings(metrics_host="127.0.0.1", metrics_port=0), run)


async def misconfigured() -> None:
    raise ConfigurationError("set another")


async def test_the_exit_code_says_that_a_task_ended() -> None:
    assert await serve_a_job(None) == EXIT_OK
    assert await serve_a_job(is_cancelled, restarts=False) == EXIT_FAILED
    assert await serve_a_job(misconfigured) == EXIT_MISUSE


async def test_a_health_server_that_ends_ends_the_process() -> None:
    async def run(_settings: ServiceSettings, runtime: Runtime) -> None:
        (server,) = [task for task in asyncio.all_tasks() if task.get_name() == "http"]
        server.cancel()
        await runtime.supervisor.run(Job(name="job", work=ending(returns, 0, [])), limit_s=1)

    settings = ServiceSettings(metrics_host="127.0.0.1", metrics_port=0)
    assert await _serve("test", settings, run) == EXIT_FAILED
