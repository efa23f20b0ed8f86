"""`flotilla documents`: what the agents may cite."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from flotilla_cli.errors import CliError, Misuse, NotFound
from flotilla_cli.printing import TableColumn, age, print_fields, print_notice, say, shorten_to_line
from flotilla_cli.verb import Limit, VerbCall, check_id, examples_epilog, new_verb_group, verb

if TYPE_CHECKING:
    from flotilla_cli.syncing import SyncPlan, SyncResult
    from flotilla_cli.uploading import FailedFile, LoadedDocument, SkippedFile, UploadReport

app = new_verb_group("Documents: the knowledge base that answers cite.")
DocumentId = Annotated[str, typer.Argument(metavar="ID", help="The document's id.", show_default=False)]

Readers = Annotated[
    list[str] | None,
    typer.Option("--reader", metavar="NAME", help="Only for user:NAME or group:NAME, and you; again for more."),
]


@verb(
    app,
    "add",
    epilog=examples_epilog(
        "flotilla documents add handbook/ faq.html",
        "flotilla documents add wiki/ --base https://wiki.example/  # sources then link to the wiki",
    ),
)
def add_documents(
    call: VerbCall,
    paths: Annotated[list[Path], typer.Argument(metavar="PATH...", help="Files, and folders with everything in them.")],
    base: Annotated[
        str | None,
        typer.Option("--base", metavar="URI", help="Name documents URI + path below PATH. Default: file:// + path."),
    ] = None,
    parallel: Annotated[
        int, typer.Option("--parallel", metavar="N", min=1, max=16, help="Uploads at the same time.")
    ] = 4,
    reader: Readers = None,
) -> None:
    """Load Markdown, text, HTML, CSV, PDF, Word, PowerPoint, Excel and mail; folders are searched through.

    A document that is already there with the same content is left alone; one with other content is replaced. What
    cannot be read is reported and the others are loaded all the same; the exit code is then 1.
    """
    from flotilla_cli.uploading import MEDIA_TYPES, DocumentUploader, find_documents

    findings = find_documents(paths, base)
    if not (findings.found or findings.failed):
        raise NotFound(
            f"no document in: {', '.join(map(str, paths))}", f"endings that are read: {' '.join(MEDIA_TYPES)}"
        )
    report = DocumentUploader(call.gateway, parallel, reader or ()).upload(
        findings.found, show_progress=not call.prints_json
    )
    report.skipped += findings.skipped
    report.failed += findings.failed
    call.show(report.as_json_object(), lambda: _print_report(report))
    if report.failed:
        tried = len(findings.found) + len(findings.failed)
        others = "; the others were" if len(report.failed) < tried else ""
        raise CliError(
            f"{len(report.failed)} of {tried} documents could not be loaded{others}",
            "fix what is named above, or leave it out, and add again: what is loaded already is left alone",
        )


def _print_report(report: "UploadReport") -> None:
    _print_left_out(report.skipped, report.failed)
    _print_parts_left_out(report.added)
    parts = [f"{len(report.added)} loaded ({sum(one.passages for one in report.added)} passages)"]
    parts += [f"{len(report.unchanged)} unchanged"] if report.unchanged else []
    parts += [f"{len(report.skipped)} skipped"] if report.skipped else []
    parts += [f"{len(report.failed)} failed"] if report.failed else []
    say(", ".join(parts))


def _print_left_out(skipped: "Sequence[SkippedFile]", failed: "Sequence[FailedFile]") -> None:
    for one in skipped:
        print_notice(f"- {one.path}: {one.reason}")
    for failure in failed:
        print_notice(f"✗ {failure.path}: {failure.error}", style="red")


def _print_parts_left_out(loaded: "Sequence[LoadedDocument]") -> None:
    for one in loaded:
        for reason in one.skipped:
            print_notice(f"- {one.path}: {reason}")


@verb(
    app,
    "sync",
    epilog=examples_epilog(
        "flotilla documents sync handbook/ --dry-run",
        "flotilla documents sync wiki/ --base https://wiki.example/ -o json",
    ),
)
def sync_documents(
    call: VerbCall,
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="The folder, with everything in it.")],
    *,
    base: Annotated[
        str | None,
        typer.Option("--base", metavar="URI", help="Name documents URI + path below FOLDER. Default: file:// + path."),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show what would be done.")] = False,
    remove_all: Annotated[
        bool, typer.Option("--remove-all", help="Go on when the folder holds no document, and all would be removed.")
    ] = False,
    parallel: Annotated[
        int, typer.Option("--parallel", metavar="N", min=1, max=16, help="Uploads at the same time.")
    ] = 4,
) -> None:
    """Make the documents below an address what a folder holds: new files are loaded, changed ones replaced.

    Documents whose file is gone are removed; those whose file is unchanged are left alone. A call that was interrupted
    is continued by the next one. What cannot be read is reported; its document stays, and the exit code is 1.
    """
    from flotilla_cli.syncing import SyncedFolder, apply_sync_plan, check_not_emptied, plan_sync

    local = SyncedFolder(folder, base)
    plan = plan_sync(call.gateway, local)
    if not remove_all:
        check_not_emptied(plan, local)
    if dry_run:
        call.show(plan.as_json_object(), lambda: _print_plan(plan))
        return
    done = apply_sync_plan(call.gateway, plan, parallel, show_progress=not call.prints_json)
    call.show(done.as_json_object(), lambda: _print_synced(done))
    if done.failed:
        raise CliError(
            f"{len(done.failed)} documents could not be synchronized", "fix what is named above, and sync again"
        )


def _print_plan(plan: "SyncPlan") -> None:
    from flotilla_cli.syncing import summarize_counts

    _print_left_out(plan.skipped, plan.failed)
    for sign, uris in (("+", plan.add), ("~", plan.replace), ("-", plan.remove)):
        for one in uris:
            say(f"{sign} {one.uri}")
    counts = (
        (len(plan.add), "to add"),
        (len(plan.replace), "to replace"),
        (len(plan.remove), "to remove"),
        (len(plan.unchanged), "unchanged"),
    )
    say(summarize_counts(counts))


def _print_synced(done: "SyncResult") -> None:
    from flotilla_cli.syncing import summarize_counts

    _print_left_out(done.skipped, done.failed)
    _print_parts_left_out([*done.added, *done.replaced])
    counts = (
        (len(done.added), "added"),
        (len(done.replaced), "replaced"),
        (len(done.removed), "removed"),
        (done.unchanged, "unchanged"),
        (len(done.skipped), "skipped"),
        (len(done.failed), "failed"),
    )
    say(summarize_counts(counts))


@verb(app, "show", epilog=examples_epilog("flotilla documents show 0197…", "flotilla documents show 0197… --text"))
def show_document(
    call: VerbCall,
    document_id: DocumentId,
    text: Annotated[bool, typer.Option("--text", help="The whole text that is searched.")] = False,
) -> None:
    """Show a document: where it is from, and with --text what of it is searched."""
    document = call.gateway.get(f"/documents/{document_id}")
    if text and not call.prints_json:
        say(document["text"])
        return
    names = (
        "document_id",
        "title",
        "uri",
        "media_type",
        "size_bytes",
        "passages",
        "created_at",
        "updated_at",
        "sha256",
    )
    shown = {name: document[name] for name in names} | {"readers": _readers_of(document)}
    call.show(document, lambda: print_fields(shown))


@verb(app, "replace", epilog=examples_epilog("flotilla documents replace 0197… handbook.md"))
def replace_document(
    call: VerbCall,
    document_id: DocumentId,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The new content.")],
) -> None:
    """Give a document the content of a file; its id and its URI stay."""
    from flotilla_cli.uploading import replace_document_content

    answer = replace_document_content(call.gateway, document_id, file)
    said = "has that content already" if answer["unchanged"] else f"is replaced ({answer['passages']} passages)"
    call.show(answer, lambda: print_notice(f"{answer['uri']} {said}.", style=None))


@verb(
    app,
    "readers",
    epilog=examples_epilog(
        "flotilla documents readers 0197… --reader group:finance", "flotilla documents readers 0197… --all"
    ),
)
def change_readers(
    call: VerbCall,
    document_id: DocumentId,
    *,
    reader: Readers = None,
    everybody: Annotated[bool, typer.Option("--all", help="Let everybody in the tenant read it.")] = False,
) -> None:
    """Say who may read a document: for all others, and for what agents do for them, it is not there."""
    if everybody == bool(reader):
        raise Misuse("name readers, or everybody", "--reader user:NAME, --reader group:NAME, or --all")
    parties = None if everybody else [_party(name) for name in reader or ()]
    document = call.gateway.put(f"/documents/{document_id}/readers", {"readers": parties})
    call.show(document, lambda: say(f"{document['uri']} is read by {_readers_of(document)}"))


@verb(app, "attach", epilog=examples_epilog("flotilla documents attach my-session notes.pdf"))
def attach_document(
    call: VerbCall,
    session_id: Annotated[str, typer.Argument(metavar="SESSION", help="The session's id.")],
    file: Annotated[Path, typer.Argument(metavar="FILE", help="What to attach.")],
) -> None:
    """Attach a file to a session: only questions of this session find it."""
    from flotilla_cli.uploading import attach_to_session

    answer = attach_to_session(call.gateway, check_id(session_id), file)
    call.show(answer, lambda: print_notice(f"{answer['uri']} is attached ({answer['passages']} passages).", style=None))


def _party(name: str) -> dict[str, str]:
    kind, colon, rest = name.partition(":")
    return {"kind": kind, "name": rest} if colon else {"kind": "user", "name": name}


def _readers_of(document: Mapping[str, Any]) -> str:
    readers = document.get("readers")
    return "everybody" if readers is None else ", ".join(f"{one['kind']}:{one['name']}" for one in readers)


@verb(app, "remove", epilog=examples_epilog("flotilla documents remove 0197… 0198…"))
def remove_documents(
    call: VerbCall,
    document_ids: Annotated[list[str], typer.Argument(metavar="ID...", help="Their ids: flotilla documents list.")],
) -> None:
    """Remove documents: no search finds them any more.

    Answers that cited one keep what was recorded of it, and mark the source as removed.
    """
    removed = [call.gateway.delete(f"/documents/{check_id(one)}") for one in document_ids]
    call.show({"removed": removed}, lambda: say("\n".join(f"removed {one['uri']}" for one in removed)))


@verb(
    app,
    "list",
    epilog=examples_epilog("flotilla documents list", "flotilla documents list --prefix https://wiki.example/ -o json"),
)
def list_documents(
    call: VerbCall,
    prefix: Annotated[
        str | None, typer.Option("--prefix", metavar="URI", help="Only those whose URI begins so.")
    ] = None,
    limit: Limit = 200,
) -> None:
    """List the documents, by URI."""
    page = call.gateway.list_all_pages("/documents", "documents", limit, prefix=prefix)
    call.print_listing(page, "documents", _DOCUMENTS, "No document yet; load some with: flotilla documents add PATH")


_DOCUMENTS = (
    TableColumn("document", "document_id"),
    TableColumn("title", lambda document: shorten_to_line(document.get("title") or "-", 40)),
    TableColumn("type", "media_type"),
    TableColumn("passages", "passages", "right"),
    TableColumn("bytes", "size_bytes", "right"),
    TableColumn("changed", lambda document: age(document.get("updated_at"))),
    TableColumn("uri", "uri"),
)


@verb(app, "search", epilog=examples_epilog('flotilla documents search "refund approval" -k 3'))
def search_documents(
    call: VerbCall,
    query: Annotated[str, typer.Argument(metavar="QUERY", help="What to look for.", show_default=False)],
    k: Annotated[int, typer.Option("-k", metavar="N", min=1, max=50, help="How many passages.")] = 5,
) -> None:
    """Show the passages that an agent would find for a question, best first."""
    found = call.gateway.get("/documents/search", q=query, k=k)
    call.show(found, lambda: _print_passages(found["passages"]))


def _characters(source: dict[str, Any]) -> str:
    return f"characters {source['start']}-{source['end']}"


def _print_passages(passages: list[dict[str, Any]]) -> None:
    if not passages:
        print_notice("Nothing found.")
    for number, passage in enumerate(passages, 1):
        source = passage["source"]
        say(f"[{number}] {source['title']}  (score {source['score']:.4g})", style="bold")
        say(f"{source['uri']}  {source['place'] or _characters(source)}", style="dim")
        say(passage["text"])
        say()
