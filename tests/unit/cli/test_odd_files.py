"""Whatever a folder holds, `documents add` and `sync` end, and say of each file that is not loaded why."""

import os
import socket
import unicodedata
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import pytest

from flotilla_cli.errors import CliError
from flotilla_cli.gateway import GatewayClient
from flotilla_cli.syncing import SyncedFolder, apply_sync_plan, plan_sync
from flotilla_cli.uploading import MAX_DOCUMENT_BYTES, DocumentUploader, find_documents

FAR = "x" * 200


class Library:
    """A gateway that holds documents, by URI."""

    def __init__(self, *uris: str) -> None:
        self.content: dict[str, bytes | None] = dict.fromkeys(uris)

    def upload_file(self, _path: str, _name: str, content: bytes, _media_type: str, **form: str) -> dict[str, Any]:
        self.content[form["uri"]] = content
        return {"document_id": form["uri"], "passages": 1, "skipped": [], "unchanged": False}

    def each(self, _path: str, _name: str, prefix: str) -> Iterator[dict[str, Any]]:
        for uri in [*self.content]:
            if uri.startswith(prefix):
                yield {"uri": uri, "document_id": uri, "sha256": None}

    def delete(self, path: str) -> None:
        del self.content[path.removeprefix("/documents/")]

    @property
    def as_gateway(self) -> GatewayClient:
        return cast("GatewayClient", self)


def deep(folder: Path) -> None:
    """A file whose whole path is longer than the kernel takes."""
    home = os.open(".", os.O_RDONLY)
    try:
        os.chdir(folder)
        for _ in range(4096 // len(FAR) + 2):
            os.mkdir(FAR)  # noqa: PTH102
            os.chdir(FAR)
        Path("deep.md").write_text("# Deep")
    finally:
        os.fchdir(home)
        os.close(home)


def too_large(folder: Path) -> None:
    with (folder / "large.md").open("wb") as file:
        file.truncate(MAX_DOCUMENT_BYTES + 1)


def listening(folder: Path) -> None:
    # The address of a socket holds about a hundred characters.
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(f"/proc/self/fd/{descriptor}/s.md")
    finally:
        os.close(descriptor)


def linked(folder: Path) -> None:
    (folder / "a.md").symlink_to(folder / "b.md")
    (folder / "b.md").symlink_to(folder / "a.md")


NOT_LOADED: dict[str, tuple[Callable[[Path], object], str]] = {
    "a pipe": (lambda folder: os.mkfifo(folder / "pipe.md"), "not a regular file"),
    "an endless device": (lambda folder: (folder / "zero.md").symlink_to("/dev/zero"), "not a regular file"),
    "a file without end in /proc": (lambda folder: (folder / "p.txt").symlink_to("/proc/self/mem"), "cannot be read"),
    "a socket": (listening, "not a regular file"),
    "a link to itself": (lambda folder: (folder / "loop.md").symlink_to(folder / "loop.md"), "cannot be read"),
    "two links to each other": (linked, "cannot be read"),
    "a link to nothing": (lambda folder: (folder / "gone.md").symlink_to(folder / "nothing.md"), "cannot be read"),
    "a link below a file": (
        lambda folder: (folder / "below.md").symlink_to(folder / "plain.md/x.md"),
        "cannot be read",
    ),
    "a path that is too long": (deep, "cannot be read"),
    "a large file": (too_large, "split it"),
}
NAMES = (
    os.fsdecode(b"\xff\xfe.md"),
    "line\nbreak.md",
    "tab\t.md",
    "bell\x07.md",
    "escape\x1b[31m.md",
    "\u202egnp.md",
    "CON.md",
    "C:\\temp\\a.md",
    "a%2Fb.md",
    "100%.md",
    "a%FFb.md",
    os.fsdecode(b"a\xffb.md"),
    "..md",
    "...md",
    " .md",
    "a b?c#d&e.md",
    "e\u0301.md",
    "\u00e9.md",
    "\U0001f600.md",
    "-rf.md",
    "~.md",
    "'\";$(id).md",
    f"{'n' * 252}.md",
)
BASES = (None, "https://wiki.example/")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "plain.md").write_text("# Plain")
    return tmp_path


@pytest.mark.parametrize("kind", NOT_LOADED)
def test_what_cannot_be_loaded_is_named_and_the_others_are(folder: Path, kind: str) -> None:
    make, reason = NOT_LOADED[kind]
    make(folder)
    findings = find_documents([folder])
    library = Library()
    report = DocumentUploader(library.as_gateway).upload(findings.found, show_progress=False)
    assert [one.uri for one in report.added] == [(folder / "plain.md").as_uri()]
    said = [one.error for one in (*report.failed, *findings.failed)]
    assert said
    assert [text for text in said if reason not in text] == []


@pytest.mark.parametrize("kind", NOT_LOADED)
def test_a_sync_names_it_too_and_removes_nothing_that_may_be_there(folder: Path, kind: str) -> None:
    make, reason = NOT_LOADED[kind]
    make(folder)
    local = SyncedFolder(folder, "wiki")
    there = ["wiki/" + "/".join([FAR] * 22) + "/deep.md", *(f"wiki/{path.name}" for path in folder.iterdir())]
    library = Library(*there)
    plan = plan_sync(library.as_gateway, local)
    done = apply_sync_plan(library.as_gateway, plan, 1, show_progress=False)
    assert done.removed == []
    said = [one.error for one in done.failed] + [one.reason for one in done.skipped]
    assert any(reason in text for text in said), said


@pytest.mark.parametrize("base", BASES)
def test_each_name_gives_a_uri_of_its_own_that_can_be_sent(folder: Path, base: str | None) -> None:
    for name in NAMES:
        (folder / name).write_text(name.encode("utf-8", "surrogateescape").hex())
    found = find_documents([folder], base).found
    uris = [one.uri for one in found]
    loaded = {name for name in (*NAMES, "plain.md") if not name.startswith(".")}
    assert len(set(uris)) == len(loaded)
    assert all(uri.encode() for uri in uris)
    assert not any(unicodedata.category(character) == "Cc" for uri in uris for character in uri)
    assert {one.uri for one in plan_sync(Library().as_gateway, SyncedFolder(folder, base)).add} == set(uris)


@pytest.mark.parametrize("base", BASES)
def test_a_document_goes_when_its_file_does_whatever_its_name(folder: Path, base: str | None) -> None:
    for name in NAMES:
        (folder / name).write_text("# Here")
    local, library = SyncedFolder(folder, base), Library()
    apply_sync_plan(library.as_gateway, plan_sync(library.as_gateway, local), 1, show_progress=False)
    there = set(library.content)
    assert plan_sync(library.as_gateway, local).remove == []
    for name in NAMES:
        (folder / name).unlink()
    plan = plan_sync(library.as_gateway, local)
    assert {one.uri for one in plan.remove} == {uri for uri in there if not uri.endswith("/plain.md")}


def test_a_document_whose_name_no_file_can_have_is_removed(folder: Path) -> None:
    plan = plan_sync(Library(f"wiki/{'x' * 300}", "wiki/gone.md").as_gateway, SyncedFolder(folder, "wiki"))
    assert len(plan.remove) == 2


STRANGE_URIS = ["", "\x00", f"{'x' * 300}", "..", "../..", "/etc/passwd", "%00", "a//b", "\n", "%"]


@pytest.mark.parametrize("uri", STRANGE_URIS)
def test_a_document_of_any_uri_below_the_base_does_not_end_a_sync(folder: Path, uri: str) -> None:
    plan_sync(Library(f"wiki/{uri}").as_gateway, SyncedFolder(folder, "wiki"))


@pytest.mark.parametrize("path", ["x" * 300, "x/" * 3000, "a\x00b", "/dev/null/x"])
def test_a_path_that_cannot_be_is_not_found(path: str) -> None:
    for look in (lambda: find_documents([Path(path)]), lambda: SyncedFolder(Path(path), None)):
        with pytest.raises(CliError):
            look()
