"""`flotilla audit archive|archives|restore`: histories of sessions that are over, in files, and back."""

import gzip
import json
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, TYPE_CHECKING, Annotated, Any

import typer

from flotilla_cli.archive_files import ArchiveStore, fetch_archive, open_archive_store, sha256_of
from flotilla_cli.errors import CliError, Misuse, NotFound
from flotilla_cli.printing import TableColumn, age, print_notice
from flotilla_cli.target import ADMIN
from flotilla_cli.verb import Limit, VerbCall, examples_epilog, verb
from flotilla_cli.verbs.audit_keys import PublicKey, find_checkpoint_key_file
from flotilla_cli.verbs.audit_requests import wait_for_outcome

if TYPE_CHECKING:
    from flotilla.config.signing import PublicKeys

SESSIONS_IN_FILE = 200
_CHUNK_BYTES = 1_000_000
"""Of events that are handed in at once, as they are sent: half of what the gateway takes."""
_CHUNK_EVENTS = 1_000
_SHOWN = 10
"""Sessions that stay, for people."""
Before = Annotated[
    str,
    typer.Option(
        "--before", metavar="T", help="Only sessions whose newest event is older: 2031-01-01 or a time with its offset."
    ),
]
Target = Annotated[str, typer.Option("--to", metavar="DIR|s3://…", help="Where the files go.", show_default=False)]
Source = Annotated[
    str,
    typer.Argument(metavar="FILE|s3://…", help="An archive, as flotilla audit archive wrote it.", show_default=False),
]


def add_verbs(app: typer.Typer) -> None:
    """Add the verbs to `flotilla audit`."""
    verb(
        app,
        "archive",
        acts_as=ADMIN,
        epilog=examples_epilog(
            "flotilla audit archive --before 2031-01-01 --to /archive",
            "flotilla audit archive --before 2031-01-01 --to s3://archive/acme --public-key audit.pub",
        ),
    )(archive)
    verb(
        app,
        "archives",
        acts_as=ADMIN,
        epilog=examples_epilog("flotilla audit archives", "flotilla audit archives --session s1"),
    )(archives)
    verb(
        app,
        "restore",
        acts_as=ADMIN,
        epilog=examples_epilog(
            "flotilla audit restore /archive/sessions-9f86d081.jsonl.gz",
            "flotilla audit restore s3://archive/acme/sessions-9f86d081.jsonl.gz --session s1",
        ),
    )(restore)


def archive(call: VerbCall, *, before: Before, to: Target, public_key: PublicKey = None) -> None:
    """Write the histories of sessions that are over to compressed files, and take their events out of the projection.

    Each history is checked before, as flotilla audit verify --file does, and each file is read back. Open and held
    sessions stay, and those with forks that stay. What was cut off goes on when the verb is repeated.
    """
    from flotilla.config.signing import load_public_keys

    moment, store = _time(before), open_archive_store(to)
    done = _Archiver(call, store, load_public_keys(find_checkpoint_key_file(public_key)))
    for sessions in _archivable(call, moment):
        with tempfile.TemporaryDirectory(prefix="flotilla-archive-") as folder:
            done.archive(sessions, Path(folder))
    shown = {"files": done.files, "sessions": done.sessions, "events": done.events, "left": done.left}
    call.show(shown, lambda: _print_archived(done))


def archives(
    call: VerbCall,
    *,
    session: Annotated[str | None, typer.Option("--session", "-s", help="Only this one.")] = None,
    limit: Limit = 50,
) -> None:
    """List which sessions were archived into which file, newest first."""
    page = call.gateway.list_all_pages("/audit/archives", "archives", limit, session_id=session)
    call.print_listing(page, "archives", _ARCHIVES, "Nothing was archived.")


def restore(
    call: VerbCall,
    *,
    source: Source,
    session: Annotated[str | None, typer.Option("--session", "-s", help="Only this one. Default: all.")] = None,
    public_key: PublicKey = None,
) -> None:
    """Put the events of archived sessions back into the projection.

    The file is checked before, and the audit consumer takes only events that left the projection, hash by hash.
    Repeating it changes nothing.
    """
    from flotilla.config.signing import load_public_keys

    keys = load_public_keys(find_checkpoint_key_file(public_key))
    with tempfile.TemporaryDirectory(prefix="flotilla-archive-") as folder:
        file = fetch_archive(source, Path(folder) / "archive")
        if not file.is_file():
            raise Misuse(f"{file} is not a file", "flotilla audit archives shows where a session is")
        _check(file, keys)
        restored = [_restore(call, name, events) for name, events in _own_events(file) if session in (None, name)]
    if not restored:
        what = "is empty" if session is None else f"does not hold session {session}"
        raise Misuse(f"{source} {what}", "flotilla audit archives shows where a session is")
    call.show(
        {"restored": restored}, lambda: print_notice(f"{sum(one['events'] for one in restored)} events are back.")
    )


def _print_archived(done: "_Archiver") -> None:
    print_notice(f"{done.sessions} sessions with {done.events} events in {len(done.files)} files.")
    for name, why in list(done.left.items())[:_SHOWN]:
        print_notice(f"Session {name} stays: {why}.")
    if len(done.left) > _SHOWN:
        print_notice(f"{len(done.left) - _SHOWN} more stay: --output json names them.")


def _archivable(call: VerbCall, before: datetime) -> Iterator[list[dict[str, Any]]]:
    after: str | None = None
    while True:
        query = {"before": before.isoformat(), "after": after, "limit": SESSIONS_IN_FILE}
        sessions = call.gateway.get("/audit/archivable", **query)["sessions"]
        if not sessions:
            return
        yield sessions
        after = sessions[-1]["session_id"]


@dataclass(slots=True)
class _Archiver:
    """Archives sessions, and counts them."""

    call: VerbCall
    store: ArchiveStore
    keys: "PublicKeys"
    files: list[str] = field(default_factory=list)
    sessions: int = 0
    events: int = 0
    left: dict[str, str] = field(default_factory=dict)
    """Sessions that stay, and why."""

    def archive(self, sessions: list[dict[str, Any]], folder: Path) -> None:
        """Archive some sessions in one file, which is made in `folder`.

        Raises:
            CliError: a history is not what was committed, or the file can't be stored.
        """
        held: dict[str, int] = {}
        file = folder / "archive"
        with file.open("wb") as written:
            for session in sessions:
                if (events := self._add(session, folder / "export", written)) is not None:
                    held[session["session_id"]] = events
        if not held:
            return
        digest = sha256_of(file).hex()
        place = self.store.store(file, f"sessions-{digest[:32]}.jsonl.gz")
        named = [{"session_id": one["session_id"], "seq": one["seq"]} for one in sessions if one["session_id"] in held]
        asked = {"file": place, "file_sha256": digest, "sessions": named}
        outcome = wait_for_outcome(self.call, self.call.gateway.post("/audit/archives", asked))
        self.files.append(place)
        self.left.update(dict.fromkeys(outcome["kept"], "it went on, or is held by now"))
        self.sessions += outcome["archived"]
        self.events += sum(events for name, events in held.items() if name not in outcome["kept"])

    def _add(self, session: dict[str, Any], export: Path, written: IO[bytes]) -> int | None:
        """Add the session's export to the file once it is checked; return how many events it has, None if it stays."""
        from flotilla.audit.export_lines import read_export_lines
        from flotilla.audit.verify_export import verify_export

        name = session["session_id"]
        with export.open("wb") as file:
            file.writelines(self.call.gateway.download_chunks("/audit/export", session_id=name))
        with export.open("rb") as file:
            verdict = verify_export(read_export_lines(file), self.keys)
        if verdict.word == "BAD":
            raise CliError(f"the history of session {name} is not what was committed: {verdict.problems[0].detail}")
        if verdict.word != "GOOD" or verdict.last_seq != session["seq"]:
            self.left[name] = verdict.unsigned[0] if verdict.unsigned else "it went on"
            return None
        with export.open("rb") as file, gzip.GzipFile(filename="", fileobj=written, mode="wb", mtime=0) as compressed:
            compressed.writelines(file)
        return verdict.events


def _check(file: Path, keys: "PublicKeys") -> None:
    from flotilla.audit.export_lines import NotAnExport, open_export_file, read_export_lines
    from flotilla.audit.verify_export import verify_exports

    try:
        with open_export_file(file) as opened:
            for verdict in verify_exports(read_export_lines(opened), keys):
                if verdict.word != "GOOD":
                    why = [problem.detail for problem in verdict.problems] + verdict.unsigned
                    raise CliError(f"{file}: session {verdict.session_id} is {verdict.word}: {why[0]}")
    except OSError as error:
        raise Misuse(f"{file} cannot be read: {error.strerror or error}") from error
    except NotAnExport as error:
        raise Misuse(f"{file}: {error}", "flotilla audit archives shows where a session is") from error


def _own_events(file: Path) -> Iterator[tuple[str, Iterator[dict[str, Any]]]]:
    """Each session of a checked archive, with its own events; those of its parents are in files of theirs, too."""
    from flotilla.audit.export_format import Event, Header, decode_export_line
    from flotilla.audit.export_lines import open_export_file, read_export_lines, split_exports

    def own(session_id: str, lines: Iterator[bytes]) -> Iterator[dict[str, Any]]:
        for raw in lines:
            line = decode_export_line(raw)
            if type(line) is Event and line.session == session_id:
                yield {"seq": line.seq, "body": line.body}

    with open_export_file(file) as opened:
        for lines in split_exports(read_export_lines(opened)):
            header = decode_export_line(next(lines))
            if isinstance(header, Header):
                yield header.session, own(header.session, lines)


def _restore(call: VerbCall, session_id: str, events: Iterator[dict[str, Any]]) -> dict[str, Any]:
    """Hand in the session's events, and have them put back; nothing where they are there already."""
    count = 0
    try:
        for chunk in _chunks(events):
            call.gateway.post(f"/audit/archives/{session_id}/events", {"events": chunk})
            count += len(chunk)
        wait_for_outcome(call, call.gateway.post(f"/audit/archives/{session_id}/restore"))
    except NotFound as error:
        print_notice(f"{error}.")
        return {"session_id": session_id, "events": 0}
    return {"session_id": session_id, "events": count}


def _chunks(events: Iterator[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    chunk: list[dict[str, Any]] = []
    size = 0
    for event in events:
        bytes_sent = len(json.dumps(event, ensure_ascii=False).encode())
        if chunk and (size + bytes_sent > _CHUNK_BYTES or len(chunk) == _CHUNK_EVENTS):
            yield chunk
            chunk, size = [], 0
        chunk.append(event)
        size += bytes_sent
    if chunk:
        yield chunk


def _time(given: str) -> datetime:
    try:
        moment = datetime.fromisoformat(given)
    except ValueError as error:
        raise Misuse(f"{given!r} is not a time", "for example 2031-01-01, or 2031-01-01T08:00:00+01:00") from error
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


_ARCHIVES = (
    TableColumn("session", "session_id"),
    TableColumn("events to", "seq", "right"),
    TableColumn("is", lambda one: "archived" if one["is_away"] else "restored" if one["archived_at"] else "asked for"),
    TableColumn("by", "archived_by"),
    TableColumn("asked", lambda one: age(one.get("asked_at"))),
    TableColumn("file", "file"),
)
