"""Finds documents on disk and loads them into the knowledge base, several at a time."""

import os
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from flotilla_cli.bytes_in import percent_encoded
from flotilla_cli.errors import CliError, NotFound
from flotilla_cli.gateway import Gateway
from flotilla_cli.printing import notices, plain

MEDIA_TYPES = {
    ".md": "text/markdown",
    ".markdown": "text/markdown",
    ".txt": "text/plain",
    ".text": "text/plain",
    ".html": "text/html",
    ".htm": "text/html",
}


@dataclass(frozen=True)
class Found:
    """A file, and the URI that names its document."""

    path: Path
    uri: str


@dataclass(frozen=True)
class Loaded:
    """A document as the gateway took it."""

    path: str
    uri: str
    document_id: str
    passages: int


@dataclass(frozen=True)
class Failed:
    """A file that was not loaded, and why."""

    path: str
    error: str


@dataclass
class Report:
    """The outcome of each file."""

    added: list[Loaded] = field(default_factory=list)
    unchanged: list[Loaded] = field(default_factory=list)
    failed: list[Failed] = field(default_factory=list)

    def as_document(self) -> dict[str, Any]:
        """For `-o json`."""
        return asdict(self)


def find_documents(paths: Iterable[Path], base: str | None = None) -> list[Found]:
    """The files named, and those with a known ending below the folders named; each once, hidden ones left out.

    Raises:
        NotFound: a path does not exist.
    """
    found: dict[Path, Found] = {}
    for path in paths:
        if not path.exists():
            raise NotFound(f"{path} does not exist", "give files, or folders that hold Markdown, text or HTML")
        root = path if path.is_dir() else path.parent
        for file in _files(path):
            found.setdefault(file.resolve(), Found(file, _uri(file, root, base)))
    return list(found.values())


def _files(path: Path) -> Iterator[Path]:
    if not path.is_dir():
        yield path
        return
    for folder, subfolders, names in os.walk(path):
        subfolders[:] = sorted(name for name in subfolders if not name.startswith("."))
        for name in sorted(names):
            if not name.startswith(".") and Path(name).suffix.lower() in MEDIA_TYPES:
                yield Path(folder, name)


def _uri(file: Path, root: Path, base: str | None) -> str:
    if base is None:
        return file.resolve().as_uri()
    return percent_encoded(f"{base.rstrip('/')}/{file.relative_to(root).as_posix()}")


class Uploader:
    """Sends files side by side; a file that fails does not stop the others."""

    def __init__(self, gateway: Gateway, parallel: int = 4) -> None:
        self._gateway = gateway
        self._parallel = parallel

    def upload(self, files: Sequence[Found], *, show_progress: bool = True) -> Report:
        """Load all of them, with a progress bar on a terminal."""
        report = Report()
        with _progress(enabled=show_progress) as bar, ThreadPoolExecutor(self._parallel) as pool:
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

    def _one(self, file: Found) -> dict[str, Any] | Failed:
        media_type = MEDIA_TYPES.get(file.path.suffix.lower())
        if media_type is None:
            return Failed(
                str(file.path), f"not Markdown, text or HTML: endings that are read are {' '.join(MEDIA_TYPES)}"
            )
        try:
            content = file.path.read_bytes()
            answer: dict[str, Any] = self._gateway.upload(
                "/documents", percent_encoded(file.path.name), content, media_type, uri=file.uri
            )
        except OSError as error:
            return Failed(str(file.path), f"cannot be read: {error.strerror or error}")
        except CliError as error:
            return Failed(str(file.path), plain(error))
        return answer


def _note(report: Report, file: Found, outcome: dict[str, Any] | Failed) -> None:
    if isinstance(outcome, Failed):
        report.failed.append(outcome)
        return
    loaded = Loaded(str(file.path), file.uri, outcome["document_id"], outcome["passages"])
    (report.unchanged if outcome["unchanged"] else report.added).append(loaded)


def _progress(*, enabled: bool) -> Any:
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    console = notices()
    return Progress(*columns, console=console, transient=True, disable=not (enabled and console.is_terminal))
