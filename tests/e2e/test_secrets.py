"""What other users of the machine can see of a running fleet: arguments of processes, and files."""

import json
from collections.abc import Iterator
from pathlib import Path

from flotilla_devstack.folders import StateDir
from tests.e2e.fleet import Fleet


def secrets_of(state: StateDir) -> set[str]:
    """Passwords, API keys and private keys of the stack."""
    found: set[str] = set()
    for file in (state.redis_passwords_file, state.keys_file):
        found |= set(json.loads(file.read_text()).values())
    for file in state.root.glob("*.pem"):
        found |= {line for line in file.read_text().splitlines() if line and "PRIVATE" not in line}
    return found


def arguments_of_processes() -> Iterator[str]:
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            yield file.read_text(errors="replace")
        except OSError:
            continue  # it ended


def test_no_secret_is_an_argument_of_a_process(fleet: Fleet) -> None:
    secrets, arguments = secrets_of(StateDir(fleet.home)), list(arguments_of_processes())
    assert len(secrets) > 8
    assert any(str(fleet.home) in each for each in arguments)
    assert [each[:80] for each in arguments if any(secret in each for secret in secrets)] == []


def test_no_secret_is_in_a_log_or_in_a_file_that_others_may_read(fleet: Fleet) -> None:
    state = StateDir(fleet.home)
    secrets = secrets_of(state)
    files = [*state.logs.iterdir(), *(file for file in state.root.iterdir() if file.is_file())]
    assert len(files) > 15
    for file in files:
        if file.parent == state.logs or file.stat().st_mode & 0o077:
            text = file.read_text(errors="replace")
            assert not any(secret in text for secret in secrets), file
