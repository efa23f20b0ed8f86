"""`flotilla documents`: what the agents may cite."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from flotilla_cli.errors import CliError, NotFound
from flotilla_cli.printing import Column, age, notice, say, shorten
from flotilla_cli.verb import Call, Limit, examples, new_app, verb

if TYPE_CHECKING:
    from flotilla_cli.uploading import Report

app = new_app("Documents: the knowledge base that answers cite.")


@verb(
    app,
    "add",
    epilog=examples(
        "flotilla documents add handbook/ faq.html",
        "flotilla documents add wiki/ --base https://wiki.example/  # sources then link to the wiki",
    ),
)
def add_documents(
    call: Call,
    paths: Annotated[list[Path], typer.Argument(metavar="PATH...", help="Files, and folders with everything in them.")],
    base: Annotated[
        str | None,
        typer.Option("--base", metavar="URI", help="Name documents URI + path below PATH. Default: file:// + path."),
    ] = None,
    parallel: Annotated[
        int, typer.Option("--parallel", metavar="N", min=1, max=16, help="Uploads at the same time.")
    ] = 4,
) -> None:
    """Load Markdown, plain text and HTML; folders are searched through.

    A document that is already there with the same content is left alone; one with other content is replaced. What
    cannot be read is reported and the others are loaded all the same; the exit code is then 1.
    """
    from flotilla_cli.uploading import Uploader, find_documents

    found = find_documents(paths, base)
    if not found:
        raise NotFound(
            f"no Markdown, text or HTML file in: {', '.join(map(str, paths))}",
            "endings that are read: .md .markdown .txt .text .html .htm",
        )
    report = Uploader(call.gateway, parallel).upload(found, show_progress=not call.as_json)
    call.show(report.as_document(), lambda: _print_report(report))
    if report.failed:
        others = "; the others were" if len(report.failed) < len(found) else ""
        raise CliError(
            f"{len(report.failed)} of {len(found)} documents could not be loaded{others}",
            "fix what is named above, or leave it out, and add again: what is loaded already is left alone",
        )


def _print_report(report: "Report") -> None:
    for failure in report.failed:
        notice(f"✗ {failure.path}: {failure.error}", style="red")
    parts = [f"{len(report.added)} loaded ({sum(one.passages for one in report.added)} passages)"]
    parts += [f"{len(report.unchanged)} unchanged"] if report.unchanged else []
    parts += [f"{len(report.failed)} failed"] if report.failed else []
    say(", ".join(parts))


@verb(app, "list", epilog=examples("flotilla documents list", "flotilla documents list -o json"))
def list_documents(call: Call, limit: Limit = 200) -> None:
    """List the documents."""
    page = call.gateway.pages("/documents", "documents", limit)
    call.listing(page, "documents", _DOCUMENTS, "No document yet; load some with: flotilla documents add PATH")


_DOCUMENTS = (
    Column("document", "document_id"),
    Column("title", lambda document: shorten(document.get("title") or "-", 40)),
    Column("type", "media_type"),
    Column("passages", "passages", "right"),
    Column("bytes", "size_bytes", "right"),
    Column("changed", lambda document: age(document.get("updated_at"))),
    Column("uri", "uri"),
)


@verb(app, "search", epilog=examples('flotilla documents search "refund approval" -k 3'))
def search_documents(
    call: Call,
    query: Annotated[str, typer.Argument(metavar="QUERY", help="What to look for.", show_default=False)],
    k: Annotated[int, typer.Option("-k", metavar="N", min=1, max=50, help="How many passages.")] = 5,
) -> None:
    """Show the passages that an agent would find for a question, best first."""
    found = call.gateway.get("/documents/search", q=query, k=k)
    call.show(found, lambda: _print_passages(found["passages"]))


def _print_passages(passages: list[dict[str, Any]]) -> None:
    if not passages:
        notice("Nothing found.")
    for number, passage in enumerate(passages, 1):
        source = passage["source"]
        say(f"[{number}] {source['title']}  (score {source['score']:.4g})", style="bold")
        say(f"{source['uri']}  characters {source['start']}-{source['end']}", style="dim")
        say(passage["text"])
        say()
