"""Nothing outlives its owner, and nothing is mistaken for another process."""

import os
import signal
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from flotilla_devstack import ServiceProcess, wait_until
from flotilla_devstack.errors import DeadlineError, NotRunningError, StartFailedError
from flotilla_devstack.keeper import ProcessWatchdog
from flotilla_devstack.ledger import ProcessLedger
from flotilla_devstack.ports import free_port
from flotilla_devstack.process import ChildProcess, ProcessCommand, ProcessIdentity, spawn_process
from flotilla_devstack.progress import ProgressEvent
from tests.integration.devstack.support import identity_of, run_python, write_service

SLEEP = ("sleep", "600")

# Starts a child (and a grandchild) from a thread that has ended by the time its pid is known.
OWNER = """
import sys, threading, os, time
from pathlib import Path
from flotilla_devstack.process import ProcessCommand, spawn_process
started = []
def start():
    command = ProcessCommand(("sleep", "600"), dict(os.environ), Path("/"))
    started.append(spawn_process(command, Path(sys.argv[1]) / "log"))
thread = threading.Thread(target=start)
thread.start()
thread.join()
print(started[0].pid, flush=True)
time.sleep(600)
"""


@pytest.fixture
def child(tmp_path: Path) -> Iterator[ChildProcess]:
    """A process that would sleep for ten minutes."""
    process = spawn_process(ProcessCommand(SLEEP, dict(os.environ), Path("/")), tmp_path / "log")
    yield process
    process.signal_process_tree(signal.SIGKILL)
    process.wait(5)


@pytest.fixture
def service(tmp_path: Path) -> Iterator[ServiceProcess]:
    """A service of two processes' worth of behaviour: ready at /readyz, drains on SIGTERM."""
    port = free_port()
    process = ServiceProcess(
        "gateway",
        env={"FLOTILLA_METRICS_PORT": str(port), "SEEN": str(tmp_path / "seen")},
        ports={"metrics": port},
        log=tmp_path / "gateway.log",
        ledger=ProcessLedger(tmp_path / "processes.jsonl"),
        argv=(sys.executable, str(write_service(tmp_path))),
    )
    yield process
    process.stop(timeout_s=1)


def test_child_dies_with_an_owner_that_is_killed(tmp_path: Path) -> None:
    with run_python(OWNER, str(tmp_path)) as owner:
        assert owner.stdout is not None
        child = identity_of(int(owner.stdout.readline()))
        assert child.is_alive(), "a child lives on when the thread that asked for it has ended"
    wait_until(lambda: not child.is_alive(), timeout_s=5, what="end of the orphan")


def test_child_is_out_of_reach_of_the_owners_ctrl_c(child: ChildProcess) -> None:
    assert os.getsid(child.pid) == child.pid != os.getsid(0)


def test_signal_to_a_process_with_another_start_time_is_not_sent(child: ChildProcess) -> None:
    stranger = replace(child.identity, started=child.identity.started + 1)
    assert not stranger.send(signal.SIGKILL)
    assert child.poll() is None
    assert child.identity.send(signal.SIGKILL)
    assert child.wait(5) == -signal.SIGKILL


def test_family_holds_descendants_in_sessions_of_their_own(tmp_path: Path) -> None:
    shell = ProcessCommand(("sh", "-c", "setsid sleep 600 & sleep 600"), dict(os.environ), Path("/"))
    parent = spawn_process(shell, tmp_path / "log")
    wait_until(lambda: len(parent.identity.process_tree()) == 3, timeout_s=5, what="the family")
    family = parent.identity.process_tree()
    parent.signal_process_tree(signal.SIGKILL)
    wait_until(lambda: not any(member.is_alive() for member in family), timeout_s=5, what="its end")
    parent.wait(5)


def test_sweep_ends_what_a_dead_owner_left_and_nothing_else(child: ChildProcess, tmp_path: Path) -> None:
    other = spawn_process(ProcessCommand(SLEEP, dict(os.environ), Path("/")), tmp_path / "log")
    path = tmp_path / "processes.jsonl"
    ProcessLedger(path).record_start("left", child.identity, signal.SIGTERM)
    reused_pid = replace(other.identity, started=other.identity.started - 1)
    ProcessLedger(path).record_start("reused", reused_pid, signal.SIGTERM)
    with path.open("a") as file:
        file.write('{"name": "cut off while it was wri')
    reaper = threading.Thread(target=child.wait, args=(5,))
    reaper.start()
    assert ProcessLedger(path).kill_survivors() == ["left"]
    reaper.join()
    assert child.poll() == -signal.SIGTERM
    assert other.poll() is None
    assert ProcessLedger(path).living_processes() == []
    other.send(signal.SIGKILL)
    other.wait(5)


def test_paused_process_is_swept_too(child: ChildProcess, tmp_path: Path) -> None:
    child.send(signal.SIGSTOP)
    ProcessLedger(tmp_path / "ledger").record_start("paused", child.identity, signal.SIGTERM)
    ProcessLedger(tmp_path / "ledger").kill_survivors()
    assert not child.identity.is_alive()


def test_service_is_ready_only_once_it_reports_it(service: ServiceProcess, tmp_path: Path) -> None:
    (tmp_path / "seen").mkdir()
    (tmp_path / "seen" / "not-ready").touch()
    service.start()
    with pytest.raises(StartFailedError, match="503: waiting for redis"):
        service.wait_ready(timeout_s=2)
    (tmp_path / "seen" / "not-ready").unlink()
    service.wait_ready(timeout_s=10)
    assert service.state == "running"


def test_service_that_ends_at_once_is_reported_with_its_last_words(tmp_path: Path) -> None:
    service = ServiceProcess(
        "writer-agent",
        env={},
        ports={"metrics": free_port()},
        log=tmp_path / "log",
        ledger=ProcessLedger(tmp_path / "ledger"),
        argv=(sys.executable, "-c", "import sys; sys.exit('no FLOTILLA_REDIS_URL')"),
    )
    service.start()
    with pytest.raises(StartFailedError, match=r"code 1 (.|\n)*no FLOTILLA_REDIS_URL"):
        service.wait_ready(timeout_s=10)


def test_stop_lets_a_service_drain(service: ServiceProcess) -> None:
    service.start()
    service.wait_ready()
    assert service.stop() == 0
    assert "drained" in service.log_text()
    assert service.pid is None


def test_killed_service_does_not_drain(service: ServiceProcess) -> None:
    service.start()
    service.wait_ready()
    service.kill()
    assert service.returncode == -signal.SIGKILL
    assert "drained" not in service.log_text()


def test_paused_service_is_mute_until_it_is_resumed(service: ServiceProcess) -> None:
    service.start()
    service.wait_ready()
    service.pause()
    assert not service.probe()
    service.resume()
    assert service.probe()


def test_paused_service_can_be_stopped(service: ServiceProcess) -> None:
    service.start()
    service.wait_ready()
    service.pause()
    assert service.stop(timeout_s=10) == 0


def test_terminated_service_tells_its_exit_code(service: ServiceProcess) -> None:
    service.start()
    service.wait_ready()
    service.terminate()
    assert service.wait_exit(10) == 0


def test_running_service_has_no_exit_code_in_time(service: ServiceProcess) -> None:
    with pytest.raises(NotRunningError):
        service.kill()
    service.start()
    with pytest.raises(DeadlineError):
        service.wait_exit(0.1)


def test_log_holds_only_the_last_life_unless_asked(service: ServiceProcess) -> None:
    service.start()
    service.wait_ready()
    service.stop()
    service.start()
    service.wait_ready()
    assert "drained" not in service.log_text()
    assert "drained" in service.log_text(whole=True)


def test_keeper_starts_a_dead_process_again_after_its_delay(service: ServiceProcess) -> None:
    service.start()
    service.wait_ready()
    heard: list[ProgressEvent] = []
    keeper = ProcessWatchdog([service], heard.append)
    first = service.pid
    service.kill()
    keeper.tick(now=100.0)
    assert service.restarts == 0
    keeper.tick(now=100.1)
    assert not service.is_running(), "0.2 s have not passed"
    keeper.tick(now=100.2)
    assert service.is_running()
    assert service.pid != first
    wait_until(lambda: _ticked(keeper, service), timeout_s=10, what="ready again")
    assert service.restarts == 1
    assert [event.phase for event in heard] == ["restarting", "ready"]


def _ticked(keeper: ProcessWatchdog, service: ServiceProcess) -> bool:
    keeper.tick(now=100.3)
    return service.state == "running"


def test_identity_of_a_reaped_process_is_nobody(child: ChildProcess) -> None:
    child.send(signal.SIGKILL)
    child.wait(5)
    assert ProcessIdentity.of(child.pid) is None
    assert not child.identity.is_alive()
