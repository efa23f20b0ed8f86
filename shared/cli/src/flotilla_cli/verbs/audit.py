"""`flotilla audit`: proof that nobody changed the history."""

import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from flotilla_cli.errors import CliError, Misuse
from flotilla_cli.printing import OutputFormat, TableColumn, age, print_json, print_notice, print_table, say
from flotilla_cli.target import ADMIN
from flotilla_cli.verb import Limit, Output, VerbCall, docstring_as_help, examples_epilog, new_verb_group, verb
from flotilla_cli.verbs import audit_archives, audit_parked
from flotilla_cli.verbs.audit_keys import PublicKey, find_checkpoint_key_file
from flotilla_cli.verbs.audit_requests import REQUESTS, Reason, Wait, wait_and_print_outcome
from flotilla_cli.writing import new_file

if TYPE_CHECKING:
    from flotilla.audit.verify_export import ExportVerdict

app = new_verb_group("Audit: proof that nobody changed the history.")
app.add_typer(audit_parked.app, name="parked")
audit_archives.add_verbs(app)
WitnessKeys = Annotated[
    list[str] | None,
    typer.Option("--witness", metavar="KEY", help="A witness's key, NAME+ID+KEY; repeat it for several."),
]
WitnessesNeeded = Annotated[
    int | None,
    typer.Option(
        "--witnesses",
        metavar="N",
        help="How many of them have to have cosigned the log's tree. Default: all.",
        show_default=False,
    ),
]
LogOrigin = Annotated[
    str | None, typer.Option("--origin", help="The log's name, which --witness needs.", show_default=False)
]
SessionId = Annotated[str, typer.Argument(metavar="S", help="The session's id.", show_default=False)]


@verb(
    app,
    "verify",
    acts_as=ADMIN,
    epilog=examples_epilog(
        "flotilla audit verify",
        "flotilla audit verify --session s1",
        "flotilla audit verify --file s1.jsonl --public-key audit.pub --vote-roots roots.toml",
        "flotilla audit verify --file s1.jsonl --public-key audit.pub --origin flotilla.example.com/audit "
        "--witness KEY --witnesses 1",
    ),
)
def verify(
    call: VerbCall,
    *,
    session: Annotated[str | None, typer.Option("--session", "-s", help="Only this one and its parents.")] = None,
    file: Annotated[
        Path | None,
        typer.Option(
            "--file",
            metavar="EXPORT",
            help="An exported history, or an archive of several, checked here without a server.",
        ),
    ] = None,
    public_key: PublicKey = None,
    vote_roots: Annotated[
        Path | None,
        typer.Option(
            "--vote-roots", metavar="TOML", help="Whose approval of a voter's key counts: checks signed votes."
        ),
    ] = None,
    audit_session: Annotated[
        Path | None,
        typer.Option(
            "--audit-session", metavar="EXPORT", help="Export of flotilla:audit: finds votes by keys revoked before."
        ),
    ] = None,
    witness: WitnessKeys = None,
    witnesses: WitnessesNeeded = None,
    origin: LogOrigin = None,
) -> None:
    """Check hash chains and signed checkpoints; name the first event that was changed, if any.

    Exit code 1 when something was changed, or when an export holds what nobody signed.
    """
    if file is not None and session is not None:
        raise Misuse("--session and --file exclude each other", "an export holds one session")
    verdict = (
        _verify_export(file, public_key, vote_roots, audit_session, cosigned=(witness or [], witnesses, origin))
        if file
        else call.gateway.get("/audit/verify", session_id=session)
    )
    call.show(verdict, lambda: _print_verdict(verdict))
    if verdict["problems"]:
        raise CliError(f"the history is not what was committed: {_first(verdict['problems'])}", _HINT)
    if not verdict["ok"]:
        raise CliError("part of the history is not signed, and unsigned events prove nothing", _UNSIGNED)


def _verify_export(
    file: Path,
    public_key: Path | None,
    vote_roots: Path | None,
    audit_session: Path | None,
    *,
    cosigned: tuple[list[str], int | None, str | None],
) -> dict[str, Any]:
    """The verdict on an export, in the shape of the gateway's."""
    from flotilla.audit.export_lines import NotAnExport, open_export_file, read_export_lines
    from flotilla.audit.export_trees import WitnessPolicy
    from flotilla.audit.verify_export import load_signers, verify_exports
    from flotilla.config.signing import load_public_keys
    from flotilla.contracts.errors import ConfigurationError
    from flotilla.votes.roots import read_vote_roots

    keys_file = find_checkpoint_key_file(public_key)
    try:
        with open_export_file(file) as opened:
            roots = read_vote_roots(vote_roots) if vote_roots else None
            keys = load_public_keys(keys_file)
            policy = WitnessPolicy.from_options(*cosigned)
            signers = load_signers(audit_session, keys, policy) if audit_session else None
            found = list(verify_exports(read_export_lines(opened), keys, roots, signers, policy))
    except OSError as error:
        raise Misuse(f"{error.filename}: {error.strerror}", "give what flotilla audit export wrote") from error
    except NotAnExport as error:
        raise Misuse(f"{file}: {error}", "nothing of it is proven: have it exported again") from error
    except ConfigurationError as error:
        raise Misuse(str(error), "flotilla audit verify --help says what each option takes") from error
    return _as_verdict(found)


def log_keys(
    origin: Annotated[
        str,
        typer.Option(
            "--origin", metavar="NAME", envvar="FLOTILLA_AUDIT_LOG_ORIGIN", help="The log's name.", show_default=False
        ),
    ],
    public_key: PublicKey = None,
    output: Output = OutputFormat.TABLE,
) -> None:
    """Print the keys of the log's trees, NAME+ID+KEY, one of each partition: what a witness or monitor has to know.

    They are computed from the public key, without a server. With two public keys in the file, each tree has two.
    """
    from flotilla.audit.notes import partition_log_keys as keys_of
    from flotilla.config.signing import load_public_keys
    from flotilla.contracts.errors import ConfigurationError

    try:
        found = [key.to_text() for key in keys_of(origin, load_public_keys(find_checkpoint_key_file(public_key)))]
    except ConfigurationError as error:
        raise Misuse(str(error), "--origin takes a name, --public-key the audit consumer's public key, PEM") from error
    if output is OutputFormat.JSON:
        print_json({"keys": found})
        return
    for key in found:
        sys.stdout.write(f"{key}\n")


app.command(
    "log-keys",
    help=docstring_as_help(log_keys),
    epilog=examples_epilog(
        "flotilla audit log-keys --origin flotilla.example.com/audit",
        "flotilla audit log-keys --origin flotilla.example.com/audit --public-key audit.pub -o json",
    ),
)(log_keys)


def _as_verdict(found: "list[ExportVerdict]") -> dict[str, Any]:
    sessions = [_as_session(one) for one in found]
    return {
        "ok": bool(found) and all(one.word == "GOOD" for one in found),
        "sessions": sessions,
        "problems": [problem for one in found for problem in map(asdict, one.problems)],
        "unsigned": [unsigned for one in found for unsigned in one.unsigned],
    }


def _as_session(found: "ExportVerdict") -> dict[str, Any]:
    return {
        "session_id": found.session_id,
        "events": found.events,
        "verified_seq": found.last_seq,
        "anchored_seq": found.anchored_seq,
        "signed_votes": found.signed_votes,
        "unchecked_votes": found.unchecked_votes,
        "revocations_checked": found.knows_revocations,
        "problem": asdict(found.problems[0]) if found.problems else None,
    }


_UNSIGNED = "have it exported again: the audit consumer signs what is new every ten seconds"
_HINT = "keep what there is and follow the runbook; flotilla audit export saves what is still provable"


def _first(problems: list[dict[str, Any]]) -> str:
    problem = problems[0]
    place = f"session {problem['session_id']} event {problem['seq']}: " if problem.get("session_id") else ""
    return f"{place}{problem['kind']}: {problem['detail']}"


def _print_verdict(verdict: dict[str, Any]) -> None:
    print_table(verdict["sessions"], _VERDICTS, "No session to verify.")
    for problem in verdict["problems"]:
        say(f"✗ {_first([problem])}", style="red")
    if verdict["ok"]:
        say("✓ The history is what was committed.", style="green")
    for unsigned in verdict.get("unsigned", ()):
        print_notice(f"Not signed: {unsigned}.")
    for session in verdict["sessions"]:
        if unchecked := session.get("unchecked_votes"):
            print_notice(f"{unchecked} signed votes were not checked: name the file of vote roots by --vote-roots.")
        if session.get("signed_votes") and not session.get("revocations_checked", True):
            print_notice("Revocations were not checked: export flotilla:audit, and name the file by --audit-session.")
    for name, witness in (("signatures_checked", "Signatures"), ("kafka_checked", "Kafka's copy")):
        if not verdict.get(name, True):
            print_notice(f"{witness} could not be checked: the gateway is not set up for it.")


_VERDICTS = (
    TableColumn("session", "session_id"),
    TableColumn("events", "events", "right"),
    TableColumn("verified to", "verified_seq", "right"),
    TableColumn("signed to", "anchored_seq", "right"),
    TableColumn("archived to", lambda one: one.get("archived_seq") or None, "right"),
    TableColumn("problem", lambda one: _first([one["problem"]]) if one.get("problem") else "none"),
)


@verb(
    app,
    "checkpoints",
    acts_as=ADMIN,
    epilog=examples_epilog("flotilla audit checkpoints", "flotilla audit checkpoints -o json"),
)
def checkpoints(call: VerbCall, limit: Limit = 50) -> None:
    """List the signed checkpoints that anchor the chains, newest first."""
    page = call.gateway.list_all_pages("/audit/checkpoints", "checkpoints", limit)
    call.print_listing(
        page, "checkpoints", _CHECKPOINTS, "No checkpoint yet; one is made within seconds of the first event."
    )


_CHECKPOINTS = (
    TableColumn("partition", "partition", "right"),
    TableColumn("number", "number", "right"),
    TableColumn("offset", "offset", "right"),
    TableColumn("heads", "heads", "right"),
    TableColumn("key", "key_id"),
    TableColumn("made", lambda one: age(one.get("created_at"))),
    TableColumn("published", lambda one: age(one.get("published_at"))),
)


@verb(
    app,
    "export",
    acts_as=ADMIN,
    epilog=examples_epilog("flotilla audit export s1 > s1.jsonl", "flotilla audit export s1 --to s1.jsonl"),
)
def export(
    call: VerbCall,
    session: SessionId,
    to: Annotated[Path | None, typer.Option("--to", metavar="FILE", help="Default: standard output.")] = None,
) -> None:
    """Write a session's history with everything that proves it, as JSON lines, for auditors who trust nobody here."""
    chunks = call.gateway.download_chunks("/audit/export", session_id=session)
    if to is None:
        sys.stdout.buffer.writelines(chunks)
        return
    with new_file(to) as file:
        file.writelines(chunks)
    print_notice(f"Written to {to}; check it with: flotilla audit verify --file {to}")


@verb(
    app,
    "rebuild",
    acts_as=ADMIN,
    epilog=examples_epilog(
        "flotilla audit rebuild",
        "flotilla audit rebuild --no-wait",
        'flotilla audit rebuild --accept-loss s1 --accept-loss acme/s7 --reason "two disks failed, no backup"',
    ),
)
def rebuild(
    call: VerbCall,
    accept_loss: Annotated[
        list[str] | None,
        typer.Option(
            "--accept-loss",
            metavar="[TENANT/]SESSION",
            help="A session, as a refused rebuild named it, that may lose what Kafka no longer has. Repeat for each; "
            "- reads names from standard input. A second person confirms it.",
            show_default=False,
        ),
    ] = None,
    reason: Annotated[str | None, typer.Option("--reason", help="Why the loss is accepted.")] = None,
    wait: Wait = True,
) -> None:
    """Build the projection again from Kafka, beside the live one, and exchange the two at once.

    If Kafka has lost events that the projection holds, nothing is changed and the sessions are listed. What a rebuild
    replaces is kept, and takes its disk, until the next rebuild or `flotilla audit drop-kept`.
    """
    names = [name for given in accept_loss or [] for name in (sys.stdin.read().split() if given == "-" else [given])]
    body = {"accept_loss": names, "reason": reason} if names else None
    wait_and_print_outcome(call, call.gateway.post("/audit/rebuild", body), wait=wait)


@verb(
    app,
    "drop-kept",
    acts_as=ADMIN,
    epilog=examples_epilog('flotilla audit drop-kept --reason "exported to the archive"'),
)
def drop_kept_projection(call: VerbCall, reason: Reason, wait: Wait = True) -> None:
    """Drop the projection that the last rebuild replaced, and free its disk.

    Where it holds events that are nowhere else, a second person confirms it.
    """
    wait_and_print_outcome(call, call.gateway.post("/audit/kept-projection/drop", {"reason": reason}), wait=wait)


@verb(
    app, "requests", acts_as=ADMIN, epilog=examples_epilog("flotilla audit requests", "flotilla audit requests -o json")
)
def requests(call: VerbCall, limit: Limit = 20) -> None:
    """List what was asked of the audit consumer: by whom, confirmed by whom, why, and what was done."""
    call.print_listing(call.gateway.get("/audit/requests", limit=limit), "requests", REQUESTS, "Nothing was asked yet.")


@verb(
    app,
    "confirm",
    epilog=examples_epilog("flotilla audit confirm 0198c5f2", "flotilla audit confirm 0198c5f2 --as bob"),
)
def confirm(
    call: VerbCall,
    request: Annotated[str, typer.Argument(metavar="REQUEST", help="The request's id.", show_default=False)],
    wait: Wait = True,
) -> None:
    """Agree, as a second person, to what somebody asked of the audit consumer; see `flotilla audit requests`."""
    wait_and_print_outcome(call, call.gateway.post(f"/audit/requests/{request}/confirm"), wait=wait)
