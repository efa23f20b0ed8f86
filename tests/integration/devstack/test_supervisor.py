"""`up`, `down` and `status` on a real Redis and six small services that only say that they are ready."""

import json
import os
import signal
import socket
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import pytest

from flotilla_devstack import ProgressEvent, Stack, StackStatus, UpOptions, down, log_path, stack_status, up, wait_until
from flotilla_devstack.errors import PortTakenError, StartFailedError, StateLockedError
from flotilla_devstack.process import ProcessIdentity
from flotilla_devstack.services import SERVICES
from flotilla_devstack.status import find_process_entry, read_identity
from tests.integration.devstack.support import SERVICE, identity_of, run_python

pytestmark = pytest.mark.timeout(120)
ROOT = Path(__file__).parents[3]

# Replaces `python -m flotilla.install`: prints its arguments, and writes the keys file.
INSTALL = """
import argparse, json, os, pathlib
parser = argparse.ArgumentParser()
parser.add_argument("--keys-file", type=pathlib.Path)
parser.add_argument("--signing-key-file", type=pathlib.Path)
parser.add_argument("--ticket-key-file", type=pathlib.Path)
parser.add_argument("--redis-passwords-file", type=pathlib.Path)
keys_file = parser.parse_args().keys_file
keys_file.touch(mode=0o600)
keys_file.write_text(json.dumps({"admin": "k1"}))
pathlib.Path(os.environ["SEEN"]).mkdir(exist_ok=True)
told = {key: value for key, value in os.environ.items() if key.startswith("FLOTILLA_")}
(pathlib.Path(os.environ["SEEN"]) / "install.json").write_text(json.dumps(told))
print("installed", flush=True)
"""


@dataclass
class Ground:
    """A state folder, and small modules in place of the real services."""

    options: UpOptions
    seen: Path
    modules: Path

    def up(self) -> tuple[StackStatus, list[ProgressEvent]]:
        events: list[ProgressEvent] = []
        return up(self.options, events.append, timeout_s=60), events

    def told(self, name: str) -> dict[str, str]:
        """The environment that a service or the installer saw."""
        told: dict[str, str] = json.loads((self.seen / f"{name}.json").read_text())
        return told

    def processes(self) -> dict[str, ProcessIdentity]:
        """Everything that runs now, the supervisor included."""
        now = stack_status(self.options.state)
        found = {entry["name"]: read_identity(entry.get("identity")) for entry in now["processes"]}
        found["supervisor"] = read_identity(now["supervisor"])
        return {name: identity for name, identity in found.items() if identity}


@pytest.fixture
def ground(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Ground]:
    modules, seen, state = tmp_path / "modules", tmp_path / "seen", tmp_path / "state"
    for spec in SERVICES.values():
        (modules / spec.module).mkdir(parents=True)
        (modules / spec.module / "__init__.py").touch()
        (modules / spec.module / "main.py").write_text(SERVICE)
    (modules / "flotilla").mkdir()
    (modules / "flotilla" / "__init__.py").touch()
    (modules / "flotilla" / "install.py").write_text(INSTALL)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(modules), os.environ.get("PYTHONPATH", "")]))
    monkeypatch.setenv("SEEN", str(seen))
    monkeypatch.setenv("OPENAI_API_KEY", "passed-through")
    yield Ground(UpOptions(state=state, servers=("redis",)), seen, modules)
    down(state)


def wait_gone(processes: dict[str, ProcessIdentity]) -> None:
    wait_until(
        lambda: not any(identity.is_alive() for identity in processes.values()),
        timeout_s=20,
        what=f"end of {', '.join(name for name, identity in processes.items() if identity.is_alive())}",
    )


def test_up_runs_servers_installer_and_services_and_reports_it(ground: Ground) -> None:
    now, events = ground.up()
    assert now["state"] == "ready"
    assert [entry["name"] for entry in now["processes"]] == ["redis", *SERVICES]
    assert {entry["state"] for entry in now["processes"]} == {"running"}
    assert now["url"] == f"http://127.0.0.1:{find_process_entry(now, 'gateway')['ports']['http']}"
    ready = [event.name for event in events if event.phase == "ready"]
    assert ready[:2] == ["redis", "install"]
    assert set(ready[2:-1]) == set(SERVICES)
    assert ready[-1] == "stack"
    assert all(Path(entry["log"]).exists() for entry in now["processes"])


def test_installer_comes_before_the_services_with_the_keys_file(ground: Ground) -> None:
    now, _ = ground.up()
    keys = Path(now["keys_file"])
    assert json.loads(keys.read_text()) == {"admin": "k1"}
    assert stat.S_IMODE(keys.stat().st_mode) == 0o600
    assert ground.told("install")["FLOTILLA_REDIS_URL"].startswith("redis://default:")
    assert "installed" in log_path(ground.options.state, "install").read_text()


def test_services_get_the_servers_and_the_callers_settings(ground: Ground) -> None:
    now, _ = ground.up()
    worker = ground.told("workflow_worker.main")
    redis_port = find_process_entry(now, "redis")["ports"]["redis"]
    passwords = json.loads((ground.options.state / "redis-passwords.json").read_text())
    password = passwords["workflow-worker"]
    assert worker["FLOTILLA_REDIS_URL"] == f"redis://workflow-worker:{password}@127.0.0.1:{redis_port}/0"
    assert worker["FLOTILLA_METRICS_HOST"] == "127.0.0.1"
    ports = find_process_entry(now, "workflow-worker")["ports"]
    assert worker["FLOTILLA_TEMPORAL_METRICS_PORT"] == str(ports["temporal_metrics"])
    assert worker["OPENAI_API_KEY"] == "passed-through"


def test_second_up_changes_nothing(ground: Ground) -> None:
    ground.up()
    before = ground.processes()
    again, events = ground.up()
    assert again["state"] == "ready"
    assert ground.processes() == before
    assert events == []


def test_up_again_after_down_uses_the_same_ports(ground: Ground) -> None:
    first, _ = ground.up()
    down(ground.options.state)
    second, _ = ground.up()
    assert [entry["ports"] for entry in second["processes"]] == [entry["ports"] for entry in first["processes"]]
    assert second["url"] == first["url"]


def test_down_stops_services_before_servers_and_reports_them(ground: Ground) -> None:
    ground.up()
    processes = ground.processes()
    began = time.monotonic()
    assert set(down(ground.options.state)) == {"redis", *SERVICES}
    wait_gone(processes)
    assert "drained" in log_path(ground.options.state, "gateway").read_text()
    lines = (ground.options.state / "events.jsonl").read_text().splitlines()
    stopped = [event for event in map(json.loads, lines) if event["phase"] == "stopped"]
    assert [event["name"] for event in stopped[-2:]] == ["redis", "stack"]
    # An end in order is not worth a word, and it is timed by itself.
    assert {event["detail"] for event in stopped} == {""}
    assert stopped[-1]["seconds"] < time.monotonic() - began
    now = stack_status(ground.options.state)
    assert now["state"] == "stopped"
    assert {entry["state"] for entry in now["processes"]} == {"stopped"}
    assert down(ground.options.state) == []


def test_killed_service_is_started_again(ground: Ground) -> None:
    ground.up()
    with Stack.attach(ground.options.state, control=True) as stack:
        gateway = stack.server("gateway")
        first = gateway.pid
        gateway.kill()
        second = gateway.wait_ready(timeout_s=20, other_than=first)
        assert second != first
        assert gateway.restarts == 1
        assert stack.server("writer-agent").restarts == 0


def test_killed_server_is_started_again_on_its_port(ground: Ground) -> None:
    ground.up()
    with Stack.attach(ground.options.state, control=True) as stack:
        redis = stack.server("redis")
        before, url = redis.pid, stack.redis_url
        redis.kill()
        redis.wait_ready(timeout_s=20, other_than=before)
        assert stack.redis_url == url


def test_nothing_outlives_a_killed_supervisor(ground: Ground) -> None:
    ground.up()
    processes = ground.processes()
    processes["supervisor"].send(signal.SIGKILL)
    wait_gone(processes)
    assert stack_status(ground.options.state)["state"] == "stopped"
    again, _ = ground.up()
    assert again["state"] == "ready"


def test_process_left_behind_by_a_killed_supervisor_is_ended_by_the_next(ground: Ground) -> None:
    """The kernel tells children of their owner's death; one that missed it (Kafka while paused) is in the ledger."""
    ground.up()
    with run_python("import time; print(1, flush=True); time.sleep(600)") as orphan:
        line = {"name": "orphan", "stop_signal": int(signal.SIGTERM), **asdict(identity_of(orphan.pid))}
        with (ground.options.state / "processes.jsonl").open("a") as ledger:
            ledger.write(json.dumps(line) + "\n")
        supervisor = ground.processes()["supervisor"]
        supervisor.send(signal.SIGKILL)
        wait_gone({"supervisor": supervisor})
        _, events = ground.up()
        assert orphan.wait(10) == -signal.SIGTERM
    assert any("orphan" in event.detail for event in events)


def test_service_that_cannot_start_fails_up_with_its_last_words(ground: Ground) -> None:
    (ground.modules / "writer_agent" / "main.py").write_text("raise SystemExit('no model is configured')")
    with pytest.raises(StartFailedError, match="no model is configured"):
        ground.up()
    now = stack_status(ground.options.state)
    assert now["state"] == "failed"
    assert [entry["name"] for entry in now["processes"] if entry["pid"]] == []


def test_installer_that_fails_fails_up_with_its_output_and_up_can_be_repeated(ground: Ground) -> None:
    installer = ground.modules / "flotilla" / "install.py"
    installer.write_text("raise SystemExit('migration 0007 failed')")
    with pytest.raises(StartFailedError, match="migration 0007 failed"):
        ground.up()
    installer.write_text(INSTALL)
    now, _ = ground.up()
    assert now["state"] == "ready"


def test_up_while_another_up_is_under_way_follows_it(ground: Ground) -> None:
    results: list[StackStatus] = []
    threads = [threading.Thread(target=lambda: results.append(ground.up()[0])) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({entry["pid"] for now in results for entry in now["processes"] if entry["name"] == "redis"}) == 1
    assert {now["state"] for now in results} == {"ready"}
    assert len(results) == 3


def test_interrupted_up_leaves_nothing_and_can_be_repeated(ground: Ground) -> None:
    (ground.seen).mkdir()
    (ground.seen / "not-ready").touch()
    # Its caller may be a job in the background, which ignores Ctrl-C.
    code = "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
    code += "from pathlib import Path; from flotilla_devstack import UpOptions, up\n"
    code += "up(UpOptions(state=Path(sys.argv[1]), servers=('redis',)), lambda e: print(e.name, e.phase, flush=True))"
    with run_python(code, str(ground.options.state)) as caller:
        assert caller.stdout is not None
        while caller.stdout.readline() != "gateway starting\n":
            assert caller.poll() is None
        processes = ground.processes()
        caller.send_signal(signal.SIGINT)
        caller.communicate(timeout=60)
        assert caller.returncode != 0
    wait_gone(processes)
    (ground.seen / "not-ready").unlink()
    assert ground.up()[0]["state"] == "ready"


def test_ctrl_c_in_a_foreground_supervisor_stops_everything(ground: Ground) -> None:
    code = "import sys; from flotilla_devstack.supervisor import main; sys.exit(main(sys.argv[1:]))"
    with run_python(code, *ground.options.to_arguments()) as supervisor:
        assert supervisor.stdout is not None
        while "stack            ready" not in supervisor.stdout.readline():
            assert supervisor.poll() is None
        processes = ground.processes()
        os.killpg(supervisor.pid, signal.SIGINT)
        supervisor.communicate(timeout=60)
        assert supervisor.returncode == 0
    wait_gone(processes)
    assert "drained" in log_path(ground.options.state, "gateway").read_text()


def test_second_supervisor_and_tests_are_kept_out_of_the_folder(ground: Ground) -> None:
    ground.up()
    code = "import sys; from flotilla_devstack.supervisor import main; sys.exit(main(sys.argv[1:]))"
    with run_python(code, *ground.options.to_arguments()) as second:
        assert second.wait(60) == 3
    with pytest.raises(StateLockedError):
        Stack(ground.options.state, servers=("redis",)).start()
    assert stack_status(ground.options.state)["state"] == "ready"


def test_requested_port_that_is_taken_fails_up_by_name(ground: Ground) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        port = listener.getsockname()[1]
        options = UpOptions(state=ground.options.state, servers=("redis",), ports=(("redis.redis", port),))
        with pytest.raises(PortTakenError, match=rf"port {port}.*redis\.redis"):
            up(options, timeout_s=30)


def test_missing_program_fails_up_with_the_command_that_installs_it(
    ground: Ground, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("JAVA_HOME", raising=False)
    options = UpOptions(state=ground.options.state, servers=("redis", "kafka"), services=(), install=())
    with pytest.raises(StartFailedError, match="apt-get install -y openjdk-17-jre-headless"):
        up(options, timeout_s=30)


def test_python_of_the_caller_runs_the_services(ground: Ground) -> None:
    ground.up()
    pid = find_process_entry(stack_status(ground.options.state), "gateway")["pid"]
    command = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    assert command[:3] == [sys.executable.encode(), b"-m", b"gateway.main"]


KILLED = """
import json, os, pathlib, signal
from flotilla_devstack import UpOptions, up

def test_a_stack_is_up() -> None:
    folder = pathlib.Path(os.environ["FOLDER"])
    now = up(UpOptions(state=folder / "state", servers=("redis",), services=(), install=()), timeout_s=60)
    (folder / "status.json").write_text(json.dumps(now))
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_test_run_that_is_killed_leaves_no_stack_behind(tmp_path: Path) -> None:
    (tmp_path / "test_killed.py").write_text(KILLED)
    command = [sys.executable, "-m", "pytest", "-p", "tests.conftest", "-p", "no:cacheprovider", str(tmp_path)]
    environment = {**os.environ, "FOLDER": str(tmp_path)}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False, timeout=100)
    assert done.returncode == -signal.SIGKILL, done.stdout + done.stderr
    was: StackStatus = json.loads((tmp_path / "status.json").read_text())
    found = {
        "supervisor": read_identity(was["supervisor"]),
        "redis": read_identity(find_process_entry(was, "redis").get("identity")),
    }
    assert all(found.values())
    wait_gone({name: identity for name, identity in found.items() if identity})
