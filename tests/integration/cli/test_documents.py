"""`flotilla documents`: loading, and what is left out."""

import os
import subprocess
from pathlib import Path

import pytest

from tests.e2e.fleet import FLOTILLA, Fleet


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three documents of a made-up town."""
    (tmp_path / "deep").mkdir()
    (tmp_path / "mill.md").write_text("# The mill\n\nThe windmill of Zandwijk grinds spelt on Thursdays.\n")
    (tmp_path / "deep" / "lock.txt").write_text("The lock of Zandwijk opens at six.\n")
    (tmp_path / "inn.html").write_text("<h1>The inn</h1><p>The inn of Zandwijk serves eel.</p>")
    return tmp_path


def test_a_folder_is_loaded_once_and_a_changed_document_again(fleet: Fleet, folder: Path) -> None:
    first = fleet.cli_json("documents", "add", str(folder))
    assert sorted(Path(one["path"]).name for one in first["added"]) == ["inn.html", "lock.txt", "mill.md"]
    again = fleet.cli_json("documents", "add", str(folder))
    assert (len(again["added"]), len(again["unchanged"])) == (0, 3)
    (folder / "mill.md").write_text("# The mill\n\nThe windmill of Zandwijk grinds rye on Fridays.\n")
    changed = fleet.cli_json("documents", "add", str(folder))
    assert [Path(one["path"]).name for one in changed["added"]] == ["mill.md"]
    found = fleet.cli("documents", "search", "What does the windmill of Zandwijk grind?", "-k", "1").stdout
    assert "rye on Fridays" in found
    assert "spelt" not in found


def test_what_cannot_be_read_is_reported_and_the_others_are_loaded(fleet: Fleet, folder: Path) -> None:
    (folder / "broken.md").write_bytes(b"\x00\xff\xfe\x00binary\x00")
    picture = folder / "picture.png"
    picture.write_bytes(b"\x89PNG")
    dangling = folder / "dangling.md"
    dangling.symlink_to(folder / "gone.md")
    done = fleet.cli("documents", "add", str(folder), str(picture), check=False)
    assert done.returncode == 1
    assert "3 loaded" in done.stdout
    assert "3 failed" in done.stdout
    for name in ("broken.md", "picture.png", "dangling.md"):
        assert f"{name}: " in done.stderr


def test_documents_are_listed_under_their_base(fleet: Fleet, folder: Path) -> None:
    fleet.cli("documents", "add", str(folder), "--base", "https://zandwijk.example/wiki")
    uris = {document["uri"] for document in fleet.cli_json("documents", "list")["documents"]}
    assert "https://zandwijk.example/wiki/deep/lock.txt" in uris


def test_nothing_to_load_is_not_found(fleet: Fleet, tmp_path: Path) -> None:
    assert fleet.cli("documents", "add", str(tmp_path), check=False).returncode == 3
    assert fleet.cli("documents", "add", str(tmp_path / "nowhere"), check=False).returncode == 3


def test_a_listing_longer_than_the_limit_reports_it(fleet: Fleet, folder: Path) -> None:
    fleet.cli("documents", "add", str(folder))
    done = fleet.cli("documents", "list", "--limit", "2")
    assert len(done.stdout.splitlines()) == 3
    assert "--limit" in done.stderr


def test_a_file_whose_name_is_not_utf8_is_loaded_and_one_that_cannot_be_is_named(fleet: Fleet, tmp_path: Path) -> None:
    (tmp_path / os.fsdecode(b"g\xfft.md")).write_text("# Bytes\n\nThis name is not UTF-8.\n")
    (tmp_path / os.fsdecode(b"bad\xff.md")).write_bytes(b"\x00\xff\xfe\x00")
    done = fleet.cli("documents", "add", str(tmp_path), check=False)
    assert done.returncode == 1
    assert "1 loaded" in done.stdout
    assert "bad\\udcff.md" in done.stderr
    (row,) = [row for row in fleet.cli_json("documents", "list")["documents"] if "g%FFt.md" in row["uri"]]
    assert row["title"] == "Bytes"
    with_base = fleet.cli_json("documents", "add", str(tmp_path / os.fsdecode(b"g\xfft.md")), "--base", "wiki")
    assert with_base["added"][0]["uri"] == "wiki/g%FFt.md"


@pytest.mark.parametrize(
    ("arguments", "token", "said"),
    [
        (("ask", os.fsdecode(b"Who \xff?")), b"", "argument 2"),
        (("ask", "-"), b"", "not UTF-8"),
        (("sessions", "list"), b"\xff", "not UTF-8"),
    ],
    ids=["argument", "standard input", "variable"],
)
def test_text_that_is_not_utf8_is_misuse(fleet: Fleet, arguments: tuple[str, ...], token: bytes, said: str) -> None:
    environment = {**os.environb, b"FLOTILLA_HOME": os.fsencode(fleet.home), b"FLOTILLA_TOKEN": token}
    done = subprocess.run([FLOTILLA, *arguments], env=environment, input=b"Who \xff?", capture_output=True, check=False)
    assert done.returncode == 2, done.stderr
    assert said in done.stderr.decode()
    assert b"Traceback" not in done.stderr
