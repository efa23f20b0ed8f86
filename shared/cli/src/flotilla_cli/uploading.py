"""Finds documents on disk and loads them into the knowledge base, several at a time."""

import os
import stat
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from flotilla_cli.bytes_in import percent_encoded
from flotilla_cli.errors import CliError, Misuse, NotFound
from flotilla_cli.gateway import Gateway
from flotilla_cli.printing import notices, plain

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
class FoundFile:
    """A file, and the URI that names its document."""

    path: Path
    uri: str


@dataclass(frozen=True)
class Skipped:
    """A file that is not loaded by design, and why."""

    path: str
    reason: str


@dataclass(frozen=True)
class Findings:
    """What there is in folders."""

    found: list[FoundFile]
    skipped: list[Skipped]
    failed: list["Failed"]


@dataclass(frozen=True)
class Loaded:
    """A document as the gateway took it."""

    path: str
    uri: str
    document_id: str
    passages: int
    skipped: list[str]
    """What of it is not read, and why."""


@dataclass(frozen=True)
class Failed:
    """A file that was not loaded, or a folder that was not looked into, and why."""

    path: str
    error: str


@dataclass
class Report:
    """The outcome of each file."""

    added: list[Loaded] = field(default_factory=list)
    unchanged: list[Loaded] = field(default_factory=list)
    failed: list[Failed] = field(default_factory=list)
    skipped: list[Skipped] = field(default_factory=list)

    def as_document(self) -> dict[str, Any]:
        """For `-o json`."""
        return asdict(self)


def find_documents(paths: Iterable[Path], base: str | None = None) -> Findings:
    """The files named, and those with a known ending below the folders named; each once, hidden ones left out.

    Raises:
        NotFound: a path does not exist.
    """
    found: dict[str, FoundFile] = {}
    findings = Findings([], [], [])
    for path in paths:
        if not os.path.exists(path):  # noqa: PTH110 - Path.exists raises for names that can't be
            raise NotFound(f"{path} does not exist", "name files, or folders that hold documents")
        root = path if path.is_dir() else path.parent
        for file in files_in(path):
            if isinstance(file, Skipped):
                findings.skipped.append(file)
            elif isinstance(file, Failed):
                findings.failed.append(file)
            else:
                found.setdefault(_resolved(file), FoundFile(file, _uri(file, root, base)))
    findings.found.extend(found.values())
    return findings


def files_in(path: Path) -> Iterator["Path | Skipped | Failed"]:
    """The file itself, or all that is not hidden below a folder."""
    if not path.is_dir():
        yield path
        return
    closed: list[OSError] = []
    for folder, subfolders, names in os.walk(path, onerror=closed.append):
        seen = sorted(name for name in subfolders if not name.startswith("."))
        subfolders[:] = [name for name in seen if not os.path.islink(f"{folder}/{name}")]  # noqa: PTH114
        yield from (Skipped(str(Path(folder, name)), _LINK) for name in seen if name not in subfolders)
        for name in sorted(name for name in names if not name.startswith(".")):
            file = Path(folder, name)
            yield file if file.suffix.lower() in MEDIA_TYPES else Skipped(str(file), _UNREAD)
    yield from (Failed(str(error.filename), _cannot_be_read(error)) for error in closed)


_LINK = "a link to a folder: name the folder itself"
_UNREAD = f"not a document: endings that are read are {' '.join(MEDIA_TYPES)}"


def _uri(file: Path, root: Path, base: str | None) -> str:
    if base is None:
        return Path(_resolved(file)).as_uri()
    return percent_encoded(f"{base.rstrip('/')}/{file.relative_to(root).as_posix()}")


def _resolved(file: Path) -> str:
    """The file that links lead to; of a link that leads to itself, the link."""
    return os.path.realpath(file)


class Uploader:
    """Sends files side by side; a file that fails does not stop the others."""

    def __init__(self, gateway: Gateway, parallel: int = 4, readers: Sequence[str] = ()) -> None:
        self._gateway = gateway
        self._readers = list(readers)
        self._parallel = parallel

    def upload(self, files: Sequence[FoundFile], *, show_progress: bool = True) -> Report:
        """Load all of them, with a progress bar on a terminal."""
        report = Report()
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

    def _one(self, file: FoundFile) -> dict[str, Any] | Failed:
        media_type = MEDIA_TYPES.get(file.path.suffix.lower())
        if media_type is None:
            return Failed(str(file.path), _UNREAD)
        try:
            answer: dict[str, Any] = self._gateway.upload(
                "/documents",
                percent_encoded(file.path.name),
                content_of(file.path),
                media_type,
                uri=file.uri,
                readers=self._readers,
            )
        except CliError as error:
            return Failed(str(file.path), plain(error))
        return answer


def content_of(file: Path) -> bytes:
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


def replace(gateway: Gateway, document_id: str, file: Path) -> dict[str, Any]:
    """Give a document the content of `file`.

    Raises:
        Misuse: there is no such file, or it cannot be a document.
    """
    return _send(gateway, f"/documents/{document_id}", file, "PUT")


def attach(gateway: Gateway, session_id: str, file: Path) -> dict[str, Any]:
    """Attach `file` to a session.

    Raises:
        Misuse: there is no such file, or it cannot be a document.
    """
    return _send(gateway, f"/sessions/{session_id}/attachments", file, "POST")


def _send(gateway: Gateway, path: str, file: Path, method: str) -> dict[str, Any]:
    media_type = MEDIA_TYPES.get(file.suffix.lower())
    if media_type is None:
        raise Misuse(f"{file} is {_UNREAD}")
    try:
        content = content_of(file)
    except Misuse as error:
        raise Misuse(f"{file} {error}") from error
    answer: dict[str, Any] = gateway.upload(path, percent_encoded(file.name), content, media_type, method=method)
    return answer


def _note(report: Report, file: FoundFile, outcome: dict[str, Any] | Failed) -> None:
    if isinstance(outcome, Failed):
        report.failed.append(outcome)
        return
    loaded = Loaded(str(file.path), file.uri, outcome["document_id"], outcome["passages"], outcome["skipped"])
    (report.unchanged if outcome["unchanged"] else report.added).append(loaded)


def progress_bar(*, enabled: bool) -> Any:
    """A bar on a terminal, and nothing elsewhere."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    console = notices()
    return Progress(*columns, console=console, transient=True, disable=not (enabled and console.is_terminal))
