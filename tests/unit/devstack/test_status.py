"""status.json, and what its readers make of it."""

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from flotilla_devstack import control
from flotilla_devstack.errors import NotRunningError
from flotilla_devstack.folders import StateDir, StateLock
from flotilla_devstack.process import ProcessIdentity
from flotilla_devstack.stack import AttachedStack
from flotilla_devstack.status import find_process_entry, identity_entry, read_stack_status


def myself() -> ProcessIdentity:
    identity = ProcessIdentity.of(os.getpid())
    assert identity is not None
    return identity


def write(folder: Path, owner: ProcessIdentity, process: ProcessIdentity, **changes: Any) -> StateDir:
    entry: dict[str, Any] = {
        "name": "redis",
        "kind": "server",
        "pid": process.pid,
        "ports": {"redis": 1},
        "state": "running",
    }
    entry |= {"log": "x.log", "version": "", "restarts": 0, "identity": identity_entry(process)}
    status: dict[str, Any] = {
        "url": "",
        "keys_file": "k",
        "processes": [entry],
        "state": "ready",
        "temporal_ui_url": "",
    }
    status |= {"supervisor": identity_entry(owner), **changes}
    state_dir = StateDir(folder).create_folders()
    state_dir.status_file.write_text(json.dumps(status))
    return state_dir


def test_living_processes_are_reported_as_written(tmp_path: Path) -> None:
    status = read_stack_status(write(tmp_path, myself(), myself()))
    assert status["state"] == "ready"
    assert find_process_entry(status, "redis")["pid"] == os.getpid()


def test_process_with_another_start_time_is_not_the_recorded_one(tmp_path: Path) -> None:
    earlier = replace(myself(), started=myself().started - 1)
    entry = find_process_entry(read_stack_status(write(tmp_path, myself(), earlier)), "redis")
    assert entry["pid"] is None
    assert entry["state"] == "stopped"


def test_stack_of_a_dead_supervisor_is_stopped(tmp_path: Path) -> None:
    before_the_reboot = replace(myself(), boot="00000000-0000-0000-0000-000000000000")
    assert read_stack_status(write(tmp_path, before_the_reboot, myself()))["state"] == "stopped"


def test_folder_without_a_stack_says_how_to_start_one(tmp_path: Path) -> None:
    with pytest.raises(NotRunningError, match="flotilla up"):
        control.stack_status(tmp_path)


def test_unknown_process_is_refused_with_the_names_there_are(tmp_path: Path) -> None:
    status = read_stack_status(write(tmp_path, myself(), myself()))
    with pytest.raises(NotRunningError, match="redis"):
        find_process_entry(status, "kafka")


def test_stack_that_is_not_ready_cannot_be_attached(tmp_path: Path) -> None:
    write(tmp_path, myself(), myself(), state="starting")
    with pytest.raises(NotRunningError, match="starting"):
        AttachedStack(tmp_path)


def test_log_of_an_unknown_service_names_the_logs_there_are(tmp_path: Path) -> None:
    StateDir(tmp_path).create_folders().log_file("gateway").write_text("hello")
    assert control.log_path(tmp_path, "gateway").read_text() == "hello"
    with pytest.raises(NotRunningError, match="gateway"):
        control.log_path(tmp_path, "gatway")


def test_down_of_what_never_ran_is_harmless(tmp_path: Path) -> None:
    assert control.down(tmp_path / "never") == []
    assert control.down(tmp_path) == []


def test_lock_tells_its_holder_and_is_free_after_release(tmp_path: Path) -> None:
    lock = StateLock(tmp_path / "lock")
    lock.acquire()
    assert StateLock(tmp_path / "lock").held()
    assert lock.holder_pid() == os.getpid()
    lock.release()
    assert not StateLock(tmp_path / "lock").held()
