"""Makes the documents below an address what a folder holds: the files decide, the gateway's list says what is there.

Nothing is kept between two calls, so one that was killed is continued by the next.
"""

import hashlib
import os
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from flotilla_cli.bytes_in import percent_encode_name
from flotilla_cli.errors import CliError, NotFound
from flotilla_cli.gateway import GatewayClient
from flotilla_cli.printing import escape_for_terminal
from flotilla_cli.uploading import (
    DocumentFile,
    DocumentUploader,
    FailedFile,
    LoadedDocument,
    SkippedFile,
    list_visible_files,
    progress_bar,
    read_document_file,
)

_LONGEST_NAME = 255
"""Bytes of one name in a folder, on every file system that is in use."""


@dataclass(frozen=True)
class KnownDocument:
    """A document that the gateway has."""

    uri: str
    document_id: str
    sha256: str | None


@dataclass
class SyncPlan:
    """What has to be done."""

    add: list[DocumentFile] = field(default_factory=list)
    replace: list[DocumentFile] = field(default_factory=list)
    remove: list[KnownDocument] = field(default_factory=list)
    unchanged: list[DocumentFile] = field(default_factory=list)
    skipped: list[SkippedFile] = field(default_factory=list)
    failed: list[FailedFile] = field(default_factory=list)

    def as_json_object(self) -> dict[str, Any]:
        """For `-o json`."""
        return {
            "dry_run": True,
            **{name: [_row(file) for file in getattr(self, name)] for name in ("add", "replace")},
            "remove": [asdict(one) for one in self.remove],
            "unchanged": len(self.unchanged),
            "skipped": [asdict(one) for one in self.skipped],
            "failed": [asdict(one) for one in self.failed],
        }


@dataclass
class SyncResult:
    """What was done."""

    added: list[LoadedDocument]
    replaced: list[LoadedDocument]
    removed: list[KnownDocument]
    unchanged: int
    skipped: list[SkippedFile]
    failed: list[FailedFile]

    def as_json_object(self) -> dict[str, Any]:
        """For `-o json`."""
        return {"dry_run": False, **asdict(self)}


class SyncedFolder:
    """A folder, and the address that its documents are below."""

    def __init__(self, path: Path, base: str | None) -> None:
        """Without `base`, documents are named by their files.

        Raises:
            NotFound: it does not exist, or is not a folder.
        """
        if not os.path.isdir(path):  # noqa: PTH112 - Path.is_dir raises for names that can't be
            raise NotFound(f"{path} is not a folder", "name the folder; a single file: flotilla documents add FILE")
        self.path = path.resolve()
        self._base = base.rstrip("/") if base else None
        self.prefix = f"{self._base or self.path.as_uri().rstrip('/')}/"

    def uri(self, file: Path) -> str:
        """What names the file's document: as `flotilla documents add` names it."""
        if self._base is None:
            return file.as_uri()
        return percent_encode_name(f"{self.prefix}{file.relative_to(self.path).as_posix()}")

    def may_contain_document(self, uri: str) -> bool:
        """Whether there is a file that `uri` may name, hidden ones and those of unknown kinds included."""
        name = uri.removeprefix(self.prefix)
        return any(_may_exist(Path(f"{self.path}/{each}")) for each in (name, unquote(name, errors="surrogateescape")))


def _may_exist(file: Path) -> bool:
    """Also where the kernel does not say, as of a path that is too long, or in a folder that is closed to us."""
    try:
        file.lstat()
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return False
    except OSError:
        return all(len(os.fsencode(part)) <= _LONGEST_NAME for part in file.parts)
    return True


def plan_sync(gateway: GatewayClient, folder: SyncedFolder) -> SyncPlan:
    """Compare the folder with what the gateway has of it."""
    known = {one.uri: one for one in _known(gateway, folder.prefix)}
    plan = SyncPlan()
    for file in list_visible_files(folder.path):
        if isinstance(file, SkippedFile):
            plan.skipped.append(file)
        elif isinstance(file, FailedFile):
            plan.failed.append(file)
        else:
            _place(plan, DocumentFile(file, folder.uri(file)), known)
    present = {file.uri for files in (plan.add, plan.replace, plan.unchanged) for file in files}
    plan.remove = [one for uri, one in known.items() if uri not in present and not folder.may_contain_document(uri)]
    return plan


def _known(gateway: GatewayClient, prefix: str) -> Iterator[KnownDocument]:
    for row in gateway.each("/documents", "documents", prefix=prefix):
        yield KnownDocument(row["uri"], row["document_id"], row["sha256"])


def _place(plan: SyncPlan, file: DocumentFile, known: dict[str, KnownDocument]) -> None:
    there = known.get(file.uri)
    if there is None:
        plan.add.append(file)
        return
    try:
        same = there.sha256 == hashlib.sha256(read_document_file(file.path)).hexdigest()
    except CliError as error:
        plan.failed.append(FailedFile(str(file.path), escape_for_terminal(error)))
        return
    (plan.unchanged if same else plan.replace).append(file)


def apply_sync_plan(gateway: GatewayClient, plan: SyncPlan, parallel: int, *, show_progress: bool) -> SyncResult:
    """Load first and remove afterwards, so that a file that moved is found all the time."""
    report = DocumentUploader(gateway, parallel).upload([*plan.add, *plan.replace], show_progress=show_progress)
    replaced = {file.uri for file in plan.replace}
    done = SyncResult(
        added=[one for one in report.added if one.uri not in replaced],
        replaced=[one for one in report.added if one.uri in replaced],
        removed=[],
        unchanged=len(plan.unchanged) + len(report.unchanged),
        skipped=plan.skipped,
        failed=[*plan.failed, *report.failed],
    )
    with progress_bar(enabled=show_progress) as bar:
        for one in bar.track(plan.remove, description="Removing documents"):
            _remove(gateway, one, done)
    return done


def _remove(gateway: GatewayClient, one: KnownDocument, done: SyncResult) -> None:
    try:
        gateway.delete(f"/documents/{one.document_id}")
    except NotFound:
        pass  # somebody else removed it
    except CliError as error:
        done.failed.append(FailedFile(one.uri, escape_for_terminal(error)))
        return
    done.removed.append(one)


def check_not_emptied(plan: SyncPlan, folder: SyncedFolder) -> None:
    """Stop before a folder that is empty by mistake, such as one that is not mounted, takes every document away.

    Raises:
        CliError: all of its documents would go.
    """
    if plan.remove and not (plan.add or plan.replace or plan.unchanged or plan.failed):
        raise CliError(
            f"{folder.path} holds no document, and {len(plan.remove)} would be removed",
            "check the folder; if they are to go, use --remove-all",
        )


def _row(file: DocumentFile) -> dict[str, str]:
    return {"path": str(file.path), "uri": file.uri}


def summarize_counts(counts: Iterable[tuple[int, str]]) -> str:
    """`3 added, 1 removed`, without what there is none of."""
    return ", ".join(f"{count} {what}" for count, what in counts if count) or "nothing to do"
