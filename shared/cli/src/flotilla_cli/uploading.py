"""Finds documents on disk and loads them into the knowledge base, several at a time."""

import os
import stat
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from flotilla_cli.bytes_in import percent_encode_name
from flotilla_cli.errors import CliError, Misuse, NotFound
from flotilla_cli.gateway import GatewayClient
from flotilla_cli.printing import escape_for_terminal, stderr_console

MAX_DOCUMENT_BYTES = 16 * 1024 * 1024
"""The gateway's limit; a test compares them."""
_OFFICE = "application/vnd.openxmlformats-officedocument"
MEDIA_TYPES = {
    ".md": "text/markdown",
    ".markdown": "text/markdown",
    ".txt": "text/plain",
    ".text": "text/plain",
    ".html": "text/html",
    ".htm": "text/html",
    ".csv": "text/csv",
    ".tsv": "text/csv",
    ".pdf": "application/pdf",
    ".eml": "message/rfc822",
    ".docx": f"{_OFFICE}.wordprocessingml.document",
    ".pptx": f"{_OFFICE}.presentationml.presentation",
    ".xlsx": f"{_OFFICE}.spreadsheetml.sheet",
}


@dataclass(frozen=True)
class DocumentFile:
    """A file, and the URI that names its document."""

    path: Path
    uri: str


@dataclass(frozen=True)
class SkippedFile:
    """A file that is not loaded by design, and why."""

    path: str
    reason: str


@dataclass(frozen=True)
class FoundFiles:
    """What there is in folders."""

    found: list[DocumentFile]
    skipped: list[SkippedFile]
    failed: list["FailedFile"]


@dataclass(frozen=True)
class LoadedDocument:
    """A document as the gateway took it."""

    path: str
    uri: str
    document_id: str
    passages: int
    skipped: list[str]
    """What of it is not read, and why."""


@dataclass(frozen=True)
class FailedFile:
    """A file that was not loaded, or a folder that was not looked into, and why."""

    path: str
    error: str


@dataclass
class UploadReport:
    """The outcome of each file."""

    added: list[LoadedDocument] = field(default_factory=list)
    unchanged: list[LoadedDocument] = field(default_factory=list)
    failed: list[FailedFile] = field(default_factory=list)
    skipped: list[SkippedFile] = field(default_factory=list)

    def as_json_object(self) -> dict[str, Any]:
        """For `-o json`."""
        return asdict(self)


def find_documents(paths: Iterable[Path], base: str | None = None) -> FoundFiles:
    """The files named, and those with a known ending below the folders named; each once, hidden ones left out.

    Raises:
        NotFound: a path does not exist.
    """
    found: dict[str, DocumentFile] = {}
    findings = FoundFiles([], [], [])
    for path in paths:
        if not os.path.exists(path):  # noqa: PTH110 - Path.exists raises for names that can't be
            raise NotFound(f"{path} does not exist", "name files, or folders that hold documents")
        root = path if path.is_dir() else path.parent
        for file in list_visible_files(path):
            if isinstance(file, SkippedFile):
                findings.skipped.append(file)
            elif isinstance(file, FailedFile):
                findings.failed.append(file)
            else:
                found.setdefault(_resolved(file), DocumentFile(file, _uri(file, root, base)))
    findings.found.extend(found.values())
    return findings


def list_visible_files(path: Path) -> Iterator["Path | SkippedFile | FailedFile"]:
    """The file itself, or all that is not hidden below a folder."""
    if not path.is_dir():
        yield path
        return
    closed: list[OSError] = []
    for folder, subfolders, names in os.walk(path, onerror=closed.append):
        seen = sorted(name for name in subfolders if not name.startswith("."))
        subfolders[:] = [name for name in seen if not os.path.islink(f"{folder}/{name}")]  # noqa: PTH114
        yield from (SkippedFile(str(Path(folder, name)), _LINK) for name in seen if name not in subfolders)
        for name in sorted(name for name in names if not name.startswith(".")):
            file = Path(folder, name)
            yield file if file.suffix.lower() in MEDIA_TYPES else SkippedFile(str(file), _UNREAD)
    yield from (FailedFile(str(error.filename), _cannot_be_read(error)) for error in closed)


_LINK = "a link to a folder: name the folder itself"
_UNREAD = f"not a document: endings that are read are {' '.join(MEDIA_TYPES)}"


def _uri(file: Path, root: Path, base: str | None) -> str:
    if base is None:
        return Path(_resolved(file)).as_uri()
    return percent_encode_name(f"{base.rstrip('/')}/{file.relative_to(root).as_posix()}")


def _resolved(file: Path) -> str:
    """The file that links lead to; of a link that leads to itself, the link."""
    return os.path.realpath(file)


class DocumentUploader:
    """Sends files side by side; a file that fails does not stop the others."""

    def __init__(self, gateway: GatewayClient, parallel: int = 4, readers: Sequence[str] = ()) -> None:
        self._gateway = gateway
        self._readers = list(readers)
        self._parallel = parallel

    def upload(self, files: Sequence[DocumentFile], *, show_progress: bool = True) -> UploadReport:
        """Load all of them, with a progress bar on a terminal."""
        report = UploadReport()
        with progress_bar(enabled=show_progress) as bar, ThreadPoolExecutor(self._parallel) as pool:
            task = bar.add_task("Loading documents", total=len(files))
            uploads = {pool.submit(self._one, file): file for file in files}
            try:
                for done in as_completed(uploads):
                    _note(report, uploads[done], done.result())
                    bar.advance(task)
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise
        return report

    def _one(self, file: DocumentFile) -> dict[str, Any] | FailedFile:
        media_type = MEDIA_TYPES.get(file.path.suffix.lower())
        if media_type is None:
            return FailedFile(str(file.path), _UNREAD)
        try:
            answer: dict[str, Any] = self._gateway.upload_file(
                "/documents",
                percent_encode_name(file.path.name),
                read_document_file(file.path),
                media_type,
                uri=file.uri,
                readers=self._readers,
            )
        except CliError as error:
            return FailedFile(str(file.path), escape_for_terminal(error))
        return answer


def read_document_file(file: Path) -> bytes:
    """What is in the file; of one that is too large for a document, not even that.

    Raises:
        Misuse: it cannot be read, never ends, or is too large.
    """
    try:
        if not stat.S_ISREG(file.stat().st_mode):
            raise Misuse("is not a regular file")  # a pipe waits for its writer, a device may never end
        with file.open("rb") as stream:
            content = stream.read(MAX_DOCUMENT_BYTES + 1)
    except OSError as error:
        raise Misuse(_cannot_be_read(error)) from error
    if len(content) > MAX_DOCUMENT_BYTES:
        raise Misuse(f"has more than {MAX_DOCUMENT_BYTES} bytes: split it")
    return content


def _cannot_be_read(error: OSError) -> str:
    return f"cannot be read: {error.strerror or error}"


def replace_document_content(gateway: GatewayClient, document_id: str, file: Path) -> dict[str, Any]:
    """Give a document the content of `file`.

    Raises:
        Misuse: there is no such file, or it cannot be a document.
    """
    return _send(gateway, f"/documents/{document_id}", file, "PUT")


def attach_to_session(gateway: GatewayClient, session_id: str, file: Path) -> dict[str, Any]:
    """Attach `file` to a session.

    Raises:
        Misuse: there is no such file, or it cannot be a document.
    """
    return _send(gateway, f"/sessions/{session_id}/attachments", file, "POST")


def _send(gateway: GatewayClient, path: str, file: Path, method: str) -> dict[str, Any]:
    media_type = MEDIA_TYPES.get(file.suffix.lower())
    if media_type is None:
        raise Misuse(f"{file} is {_UNREAD}")
    try:
        content = read_document_file(file)
    except Misuse as error:
        raise Misuse(f"{file} {error}") from error
    answer: dict[str, Any] = gateway.upload_file(
        path, percent_encode_name(file.name), content, media_type, method=method
    )
    return answer


def _note(report: UploadReport, file: DocumentFile, outcome: dict[str, Any] | FailedFile) -> None:
    if isinstance(outcome, FailedFile):
        report.failed.append(outcome)
        return
    loaded = LoadedDocument(str(file.path), file.uri, outcome["document_id"], outcome["passages"], outcome["skipped"])
    (report.unchanged if outcome["unchanged"] else report.added).append(loaded)


def progress_bar(*, enabled: bool) -> Any:
    """A bar on a terminal, and nothing elsewhere."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    console = stderr_console()
    return Progress(*columns, console=console, transient=True, disable=not (enabled and console.is_terminal))
