"""Doing the same to several units side by side, and giving all up as soon as one fails."""

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from typing import TypeVar

from flotilla_devstack.errors import InterruptedStartError
from flotilla_devstack.progress import Listener, PhaseReporter
from flotilla_devstack.servers.base import LocalServer
from flotilla_devstack.unit import ManagedProcess

U = TypeVar("U", bound=ManagedProcess)


def run_in_parallel(units: Sequence[U], job: Callable[[U], None], cancelled: threading.Event) -> None:
    """Run `job` for every unit at once and wait for all.

    When one fails, or the caller is interrupted, `cancelled` is set so that the others give up; the first real failure
    is raised once all have ended.
    """
    if not units:
        return
    with ThreadPoolExecutor(max_workers=len(units), thread_name_prefix="devstack") as pool:
        futures = [pool.submit(job, unit) for unit in units]
        try:
            wait(futures, return_when=FIRST_EXCEPTION)
        finally:
            if any(not f.done() or f.exception() for f in futures):
                cancelled.set()
    _raise_first(futures)


def _raise_first(futures: Sequence[Future[None]]) -> None:
    errors = [error for f in futures if (error := f.exception())]
    causes = [error for error in errors if not isinstance(error, InterruptedStartError)]
    for error in [*causes, *errors]:
        raise error


def start_server(server: LocalServer, listener: Listener, cancelled: threading.Event) -> None:
    """Take one server from nothing to ready and provisioned, reporting each phase."""
    watch = PhaseReporter(server.name, server.kind, listener)
    try:
        watch.report_phase("preparing")
        server.prepare(lambda detail: watch.report_phase("preparing", detail), cancelled)
        watch.report_phase("starting")
        server.start()
        server.wait_ready(cancelled=cancelled)
        server.provision()
        server.version = server.find_version()
        watch.report_phase("ready", server.version)
    except Exception as error:
        server.state = "failed"
        watch.report_phase("failed", str(error))
        raise


def stop_unit(unit: ManagedProcess, listener: Listener) -> None:
    """Stop one unit, reporting begin and end; says nothing when it did not run."""
    if not unit.is_running():
        unit.stop()
        return
    watch = PhaseReporter(unit.name, unit.kind, listener)
    watch.report_phase("stopping")
    code = unit.stop()
    watch.report_phase("stopped", "" if code in unit.clean_exit_codes else f"exit code {code}")
