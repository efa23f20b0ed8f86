"""`flotilla approvals`: the inbox of those who decide."""

import hashlib
import json
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from flotilla.contracts.visible_text import escape_invisible_in_json
from flotilla_cli.errors import CliError, Misuse
from flotilla_cli.printing import TableColumn, age, print_fields, shorten_to_line
from flotilla_cli.verb import Limit, VerbCall, examples_epilog, new_verb_group, verb

app = new_verb_group("Approvals: the inbox of those who decide. Nobody approves their own request.")
SignWith = Annotated[
    Path | None,
    typer.Option(
        "--sign-with",
        metavar="KEYFILE",
        help="Sign the vote with your own enrolled key: OpenSSH (by ssh-keygen) or Ed25519 in PEM.",
        show_default=False,
    ),
]
ApprovalId = Annotated[str, typer.Argument(metavar="ID", help="The approval's id.", show_default=False)]
Seen = Annotated[
    str | None,
    typer.Option(
        "--content-hash",
        metavar="SHA256",
        help="Decide only if exactly this will be executed (from show). Without it, approve shows it and asks.",
        show_default=False,
    ),
]


@verb(
    app, "list", epilog=examples_epilog("flotilla approvals list", "flotilla approvals list --status approved -o json")
)
def list_approvals(
    call: VerbCall,
    status: Annotated[
        str, typer.Option("--status", help="pending, approved, rejected, timeout, cancelled or all.")
    ] = "pending",
    limit: Limit = 50,
) -> None:
    """List what waits for a decision."""
    wanted = None if status == "all" else status
    page = call.gateway.list_all_pages("/approvals", "approvals", limit, status=wanted)
    call.print_listing(
        page, "approvals", _APPROVALS, "Nothing waits for a decision." if status == "pending" else "None."
    )


_APPROVALS = (
    TableColumn("approval", "approval_id"),
    TableColumn("action", "action"),
    TableColumn("description", lambda approval: shorten_to_line(approval.get("description", ""), 50)),
    TableColumn("risk", "risk_level"),
    TableColumn("requested by", "requested_by"),
    TableColumn("status", "status"),
    TableColumn("deadline", lambda approval: age(format_deadline(approval))),
)


def format_deadline(approval: Any) -> Any:
    """When it is too late to decide."""
    return approval.get("deadline_at") or approval.get("deadline")


@verb(app, "show", epilog=examples_epilog("flotilla approvals show 0197…"))
def show_approval(call: VerbCall, approval_id: ApprovalId) -> None:
    """Show exactly what will be executed, its risk and why, who asks, the deadline and the votes."""
    approval = call.gateway.get(f"/approvals/{approval_id}")
    call.show(approval, lambda: _print_approval(approval))


def _print_approval(approval: dict[str, Any]) -> None:
    from flotilla_cli.verbs.actions import print_votes

    fields = {
        name: value for name, value in approval.items() if name not in ("votes", "args_schema", "args", "content")
    }
    print_fields({"will be executed": escape_invisible_in_json(checked_canonical_content(approval)), **fields})
    print_votes(approval.get("votes") or [])


@verb(
    app,
    "approve",
    epilog=examples_epilog(
        "flotilla approvals approve 0197… --as bob",
        'flotilla approvals approve 0197… --content-hash 9f86… --reason "checked"',
        "flotilla approvals approve 0197… --sign-with ~/.ssh/id_ed25519",
    ),
)
def approve(
    call: VerbCall,
    approval_id: ApprovalId,
    reason: Annotated[str | None, typer.Option("--reason", help="For the record.")] = None,
    content_hash: Seen = None,
    sign_with: SignWith = None,
) -> None:
    """Let the action run, exactly as it was shown to you.

    Without --content-hash it shows what will be executed and asks; a script names the hash of what its person saw.
    """
    seen = content_hash or _shown_and_confirmed(call, approval_id)
    _decide(call, approval_id, {"decision": "approve", "reason": reason}, seen, sign_with)


@verb(app, "reject", epilog=examples_epilog('flotilla approvals reject 0197… --reason "wrong recipient"'))
def reject(
    call: VerbCall,
    approval_id: ApprovalId,
    reason: Annotated[str, typer.Option("--reason", help="For the record and the requester.")],
    content_hash: Seen = None,
    sign_with: SignWith = None,
) -> None:
    """Refuse the action; it will never run."""
    _decide(call, approval_id, {"decision": "reject", "reason": reason}, content_hash, sign_with)


@verb(app, "edit", epilog=examples_epilog("flotilla approvals edit 0197… --arg text=better"))
def edit(
    call: VerbCall,
    approval_id: ApprovalId,
    arg: Annotated[
        list[str], typer.Option("--arg", metavar="K=V", help="A new value, repeatable; V may be JSON: n=3, s='\"3\"'.")
    ],
    reason: Annotated[str | None, typer.Option("--reason", help="For the record.")] = None,
    content_hash: Seen = None,
) -> None:
    """Change arguments of the action; the others stay. The edited action needs an approval by another person."""
    from flotilla_cli.arguments import parse_key_values

    approval = call.gateway.get(f"/approvals/{approval_id}")
    arguments = {**(approval.get("args") or {}), **parse_key_values(arg)}
    body = {"decision": "edit", "reason": reason, "args": arguments}
    _decide(call, approval_id, body, content_hash or approval["content_hash"])


def checked_canonical_content(approval: dict[str, Any]) -> str:
    """Return what will be executed, as the text that is hashed.

    Raises:
        CliError: the text has another hash, or says something else than the fields beside it.
    """
    content: str = approval["content"]
    named = {"action": approval["action"], "args": approval["args"]}
    if hashlib.sha256(content.encode()).hexdigest() != approval["content_hash"] or json.loads(content) != named:
        raise CliError(
            f"the content of approval {approval['approval_id']} does not match its hash: nothing was decided",
            "do not decide; report it to the gateway's operators",
        )
    return content


def _shown_and_confirmed(call: VerbCall, approval_id: str) -> str:
    """Return the hash of what the person at the terminal was shown and agreed to."""
    if not sys.stdin.isatty():
        raise Misuse(
            "nobody is at a terminal to look at what will be executed",
            f"name what was looked at: --content-hash (flotilla approvals show {approval_id} prints it)",
        )
    approval = call.gateway.get(f"/approvals/{approval_id}")
    _print_approval(approval)
    typer.confirm("Approve exactly this?", abort=True, err=True)
    return str(approval["content_hash"])


def _decide(
    call: VerbCall, approval_id: str, body: dict[str, Any], content_hash: str | None, sign_with: Path | None = None
) -> None:
    seen = content_hash or call.gateway.get(f"/approvals/{approval_id}")["content_hash"]
    given = {name: value for name, value in body.items() if value is not None}
    if sign_with is not None:
        given["signature"] = _signature(call, approval_id, str(body["decision"]), seen, sign_with)
    answer = call.gateway.post(f"/approvals/{approval_id}/decision", {**given, "content_hash": seen})
    call.show(answer, lambda: print_fields(answer))


def _signature(call: VerbCall, approval_id: str, decision: str, content_hash: str, key: Path) -> dict[str, Any]:
    """Return the voter's own signature over what was looked at.

    Raises:
        CliError: what would be executed is not what was looked at.
    """
    from flotilla.contracts.envelope import from_builtins
    from flotilla.contracts.votes import VoteStatement
    from flotilla.votes.statements import canonical_statement_text, format_statement_time
    from flotilla_cli.signing import open_signing_key, signed_statement_body
    from flotilla_cli.verbs.signers import find_signer_id

    approval, me, file = call.gateway.get(f"/approvals/{approval_id}"), call.gateway.me(), open_signing_key(key)
    checked_canonical_content(approval)
    if approval["content_hash"] != content_hash:
        raise CliError("what would be executed is not what you were shown", f"flotilla approvals show {approval_id}")
    statement = from_builtins(
        {
            "tenant": me["tenant"],
            "approval_id": approval_id,
            "content_hash": content_hash,
            "decision": decision,
            "policy_version": approval["signing_policy_version"],
            "subject": me["subject"],
            "requested_by": approval["requested_by"],
            "on_behalf_of": approval["on_behalf_of"] or "",
            "time": format_statement_time(datetime.now(UTC)),
        },
        VoteStatement,
    )
    signed = file.sign(canonical_statement_text(statement))
    return {"signer_id": find_signer_id(call, me["subject"], file), **signed_statement_body(signed)}
