"""`flotilla audit archive`, `archives` and `restore`: a history in a file, and back."""

import asyncio
import gzip
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from tests.e2e.fleet import Fleet
from tests.support.waiting import eventually

TOMORROW = "2999-01-01"


@pytest.fixture
def asked(fleet: Fleet, handbook: str, unique: Callable[[str], str]) -> str:
    """A session with one answered question."""
    session = unique("archived")
    fleet.cli("ask", "When is diesel sold?", "--session", session)
    return session


def is_archived(fleet: Fleet, session: str, folder: Path) -> bool:
    """Whether it is, once it is signed: archives what can be."""
    fleet.cli("audit", "archive", "--before", TOMORROW, "--to", str(folder))
    found = fleet.cli_json("audit", "archives", "--session", session)["archives"]
    return bool(found and found[0]["is_away"])


def damaged_copy(file: str, folder: Path) -> Path:
    """An archive in which somebody changed a word."""
    damaged = folder / "damaged.gz"
    damaged.write_bytes(gzip.compress(gzip.decompress(Path(file).read_bytes()).replace(b"diesel", b"petrol")))
    return damaged


async def test_a_history_goes_to_a_file_that_proves_it_and_comes_back(fleet: Fleet, asked: str, tmp_path: Path) -> None:
    events = fleet.cli_json("sessions", "events", asked)["events"]
    await eventually(partial(asyncio.to_thread, is_archived, fleet, asked, tmp_path), 60)
    (archive,) = fleet.cli_json("audit", "archives", "--session", asked)["archives"]
    away = fleet.cli("sessions", "events", asked, check=False)
    assert (away.returncode, f"of session {asked} are in an archive" in away.stderr) == (1, True), away.stderr
    refused = fleet.cli("ask", "And petrol?", "--session", asked, check=False)
    assert (refused.returncode, "flotilla audit restore" in refused.stderr) == (1, True), refused.stderr
    alone = fleet.cli_json("audit", "verify", "--file", archive["file"])
    assert asked in {session["session_id"] for session in alone["sessions"]}
    whole = fleet.cli_json("audit", "verify")
    found = {session["session_id"]: session["archived_seq"] for session in whole["sessions"]}
    assert (whole["ok"], whole["kafka_checked"], found[asked]) == (True, True, archive["seq"])
    damaged = damaged_copy(archive["file"], tmp_path)
    for wrong in (["audit", "verify", "--file"], ["audit", "restore"]):
        assert fleet.cli(*wrong, str(damaged), check=False).returncode == 1
    fleet.cli("audit", "restore", archive["file"])
    assert fleet.cli_json("sessions", "events", asked)["events"] == events
    assert fleet.cli_json("audit", "verify")["ok"]
    again = fleet.cli_json("audit", "restore", archive["file"], "--session", asked)
    assert again["restored"] == [{"session_id": asked, "events": 0}]
    fleet.cli("ask", "And petrol?", "--session", asked)


def test_an_archive_needs_a_folder_and_a_time(fleet: Fleet, tmp_path: Path) -> None:
    for before, to in ((TOMORROW, str(tmp_path / "none")), ("soon", str(tmp_path))):
        assert fleet.cli("audit", "archive", "--before", before, "--to", to, check=False).returncode == 2
