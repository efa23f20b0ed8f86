"""One fleet over replicated servers for all scenarios, and the table of what they measured.

Every scenario leaves the servers whole, so the next one begins with a calm fleet. SEED repeats a run's draws.
"""

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.ha.harness.fleet import Fleet, running_fleet
from tests.ha.harness.judge import HEADER, Verdict

_verdicts: list[Verdict] = []


@pytest.fixture(scope="session")
def replicated_fleet() -> Iterator[Fleet]:
    """Servers and services; started once."""
    with tempfile.TemporaryDirectory(prefix="flotilla-ha-", ignore_cleanup_errors=True) as folder:
        Path(folder).chmod(0o711)  # PostgreSQL runs as another user where the tests run as root
        with running_fleet(Path(folder)) as fleet:
            yield fleet


@pytest.fixture(scope="session")
def seed() -> int:
    """What the faults are drawn from."""
    return int(os.environ.get("SEED", "1"))


@pytest.fixture(scope="session")
def table() -> list[Verdict]:
    """The verdicts so far; printed at the end."""
    return _verdicts


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    for line in [HEADER, *(verdict.line() for verdict in _verdicts)] if _verdicts else []:
        terminalreporter.write_line(line)
