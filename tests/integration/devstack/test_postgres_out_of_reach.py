"""PostgreSQL below a private folder: root's runs as another user, who cannot pass it; anybody else's stays there."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from flotilla_devstack.ledger import ProcessLedger
from flotilla_devstack.ports import free_port
from flotilla_devstack.process import ProcessIdentity
from flotilla_devstack.servers.base import Home
from flotilla_devstack.servers.postgres import BIN_VARIABLE, PostgresServer, find_postgres_bin

ROOT = os.geteuid() == 0


@pytest.fixture
def private(tmp_path: Path) -> Path:
    """A folder that is closed to everybody else."""
    folder = tmp_path / "private"
    folder.mkdir(mode=0o700)
    return folder


@pytest.fixture
def server(private: Path) -> Iterator[PostgresServer]:
    """A server whose data folder is below the private one."""
    home = Home(private / "postgres", private / "log", {"postgres": free_port()}, ProcessLedger(private / "ledger"))
    server = PostgresServer(home, database="kept")
    yield server
    server.stop()
    shutil.rmtree(server.folder.resolve(), ignore_errors=True)


def run(server: PostgresServer) -> ProcessIdentity:
    server.prepare(lambda _: None)
    server.start()
    server.wait_ready()
    server.provision()
    assert server.identity is not None
    return server.identity


def test_data_goes_where_the_user_can_reach_it_and_is_found_again(server: PostgresServer, private: Path) -> None:
    process = run(server)
    assert Path(f"/proc/{process.pid}").stat().st_uid != 0
    assert server.folder.resolve().is_relative_to(private) is not ROOT
    server.stop()
    run(server)
    assert server.query_as_superuser("SELECT current_database()", database="kept") == "kept"


def test_programs_out_of_reach_are_copied_to_where_the_user_can_run_them(
    server: PostgresServer, private: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = find_postgres_bin().parent.parent
    for source in (package, package.with_name(f"{package.name}.libs")):
        if source.exists():
            shutil.copytree(source, private / source.name, symlinks=True)
    monkeypatch.setenv(BIN_VARIABLE, str(private / package.name / "pginstall" / "bin"))
    (private / "unrelated").write_text("stays where it is")
    process = run(server)
    assert not list(server.folder.resolve().rglob("unrelated"))
    assert Path(f"/proc/{process.pid}/exe").readlink().is_relative_to(private) is not ROOT
    assert server.find_version().startswith("PostgreSQL 18")


def test_data_of_a_temporary_stack_that_is_gone_is_cleared_away(server: PostgresServer, private: Path) -> None:
    server.prepare(lambda _: None)
    elsewhere = server.folder.resolve()
    server.folder.unlink() if ROOT else shutil.rmtree(server.folder)
    second = Home(private / "second", private / "log2", {"postgres": free_port()}, ProcessLedger(private / "ledger"))
    other = PostgresServer(second)
    other.prepare(lambda _: None)
    assert not elsewhere.exists()
    assert other.folder.resolve().exists()
    shutil.rmtree(other.folder.resolve())
