"""`flotilla signers`: the keys with which people sign their votes."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from flotilla.contracts.votes import SignerApproval, SignerStatement
from flotilla_cli.errors import CliError, Misuse
from flotilla_cli.printing import TableColumn, age, print_fields, print_notice
from flotilla_cli.signing import SigningKeyFile, open_signing_key, signed_statement_body
from flotilla_cli.target import ADMIN
from flotilla_cli.verb import Limit, VerbCall, examples_epilog, new_verb_group, verb
from flotilla_cli.verbs.audit import LogOrigin, WitnessesNeeded, WitnessKeys
from flotilla_cli.verbs.audit_keys import PublicKey, find_checkpoint_key_file

app = new_verb_group(
    "Signers: the keys with which people sign their votes. Each person enrolls their own; an admin approves."
)
SignerId = Annotated[str, typer.Argument(metavar="ID", help="The signer's id.", show_default=False)]
KeyOption = Annotated[
    Path,
    typer.Option("--key", metavar="FILE", help="An OpenSSH key (private, or public with ssh-agent) or Ed25519 in PEM."),
]


SIGNED_WITHIN_S = 60.0
"""Checkpoints are made every ten seconds."""
COSIGNED_WITHIN_S = 180.0
"""Witnesses are asked every minute."""


@verb(app, "enroll", epilog=examples_epilog("flotilla signers enroll --key ~/.ssh/id_ed25519 --name laptop --as bob"))
def enroll(
    call: VerbCall,
    key: KeyOption,
    name: Annotated[str, typer.Option("--name", help="What you call the key.")] = "key",
) -> None:
    """Enroll a key of your own. It signs nothing until a second admin has approved it."""
    from flotilla.votes.statements import canonical_statement_text, format_statement_time

    file, me = open_signing_key(key), call.gateway.me()
    statement = SignerStatement(
        tenant=me["tenant"],
        subject=me["subject"],
        kind=file.kind,
        public_key=file.public_key,
        credential_id="",
        name=name,
        time=format_statement_time(datetime.now(UTC)),
    )
    signer = call.gateway.post("/signers", signed_statement_body(file.sign(canonical_statement_text(statement))))
    call.show(signer, lambda: _print_enrolled(signer))


def _print_enrolled(signer: dict[str, Any]) -> None:
    _print_signer(signer)
    print_notice("Tell an admin this fingerprint by another way; they approve the key with:", style=None)
    print_notice(f"  flotilla signers approve {signer['signer_id']} --fingerprint {signer['fingerprint']}", style=None)


@verb(
    app,
    "approve",
    acts_as=ADMIN,
    epilog=examples_epilog(
        "flotilla signers approve 0197… --fingerprint SHA256:… --key ~/.ssh/root --role approver --expires 365d"
    ),
)
def approve(
    call: VerbCall,
    signer_id: SignerId,
    *,
    fingerprint: Annotated[
        str, typer.Option("--fingerprint", metavar="SHA256:…", help="As the person gave it to you, not as listed here.")
    ],
    key: KeyOption,
    role: Annotated[list[str] | None, typer.Option("--role", help="With which the person votes; repeatable.")] = None,
    expires: Annotated[str, typer.Option("--expires", metavar="SPAN", help="Valid this long, up to 400d.")] = "365d",
) -> None:
    """Approve the key of another person, with your own, which the operators made a vote root."""
    from flotilla.votes.statements import canonical_statement_text, format_statement_time, statement_digest
    from flotilla_cli.arguments import parse_expiry

    signer = call.gateway.get(f"/signers/{signer_id}")
    _check_fingerprint(signer, fingerprint)
    file, me = open_signing_key(key), call.gateway.me()
    statement = SignerApproval(
        tenant=me["tenant"],
        subject=signer["subject"],
        statement=statement_digest(signer["signed"]["statement"]),
        roles=role or ["approver"],
        approved_by=me["subject"],
        expires_at=format_statement_time(parse_expiry(expires)),
        time=format_statement_time(datetime.now(UTC)),
    )
    approved = call.gateway.post(
        f"/signers/{signer_id}/approval", signed_statement_body(file.sign(canonical_statement_text(statement)))
    )
    call.show(approved, lambda: _print_signer(approved))


def _check_fingerprint(signer: dict[str, Any], expected: str) -> None:
    """The fingerprint of what will be signed, recomputed here: the gateway may say anything."""
    from flotilla.votes.errors import Unproven
    from flotilla.votes.keys import parse_signer_key
    from flotilla.votes.statements import parse_signed_statement

    try:
        statement = parse_signed_statement(signer["signed"]["statement"], SignerStatement)
        found = parse_signer_key(statement.kind, statement.public_key, statement.credential_id).fingerprint
    except Unproven as error:
        raise CliError(
            f"signer {signer['signer_id']} is not a key: {error}", "ask the person to enroll again"
        ) from error
    if found != expected or statement.subject != signer["subject"]:
        raise CliError(
            f"the key of {statement.subject} has the fingerprint {found}, not {expected}: nothing was approved",
            "ask the person for the fingerprint that ssh-keygen -l or flotilla signers enroll showed them",
        )


@verb(app, "list", epilog=examples_epilog("flotilla signers list", "flotilla signers list --subject bob -o json"))
def list_signers(
    call: VerbCall,
    subject: Annotated[str | None, typer.Option("--subject", help="Only this person's.")] = None,
    limit: Limit = 200,
) -> None:
    """List the keys of people, newest first."""
    page = call.gateway.list_all_pages("/signers", "signers", limit, subject=subject)
    call.print_listing(page, "signers", _SIGNERS, "No signer.")


_SIGNERS = (
    TableColumn("id", "signer_id"),
    TableColumn("person", "subject"),
    TableColumn("kind", "kind"),
    TableColumn("name", "name"),
    TableColumn("fingerprint", "fingerprint"),
    TableColumn("status", "status"),
    TableColumn("approved by", "approved_by"),
    TableColumn("expires", lambda signer: age(signer.get("expires_at"))),
)


@verb(app, "revoke", epilog=examples_epilog("flotilla signers revoke 0197… --as bob"))
def revoke(call: VerbCall, signer_id: SignerId) -> None:
    """Revoke a key: your own, or as an admin anybody's. Votes that were counted before stay counted."""
    signer = call.gateway.delete(f"/signers/{signer_id}")
    call.show(signer, lambda: _print_revoked(signer))


def _print_revoked(signer: dict[str, Any]) -> None:
    _print_signer(signer)
    print_notice("Check that the signed log has it:", style=None)
    print_notice(f"  flotilla signers prove-revoked {signer['fingerprint']} --public-key PEM", style=None)


@verb(
    app,
    "prove-revoked",
    acts_as=ADMIN,
    epilog=examples_epilog(
        "flotilla signers prove-revoked SHA256:… --public-key audit.pub",
        "flotilla signers prove-revoked SHA256:… --public-key audit.pub --origin flotilla.example.com/audit "
        "--witness KEY",
    ),
)
def prove_revoked(
    call: VerbCall,
    *,
    fingerprint: Annotated[str, typer.Argument(metavar="SHA256:…", help="The key's fingerprint.")],
    public_key: PublicKey = None,
    witness: WitnessKeys = None,
    witnesses: WitnessesNeeded = None,
    origin: LogOrigin = None,
    wait: Annotated[
        bool, typer.Option("--wait/--no-wait", help="Wait up to 60 s for a checkpoint, 180 s for witnesses.")
    ] = True,
) -> None:
    """Check that the revocation of a key is in the log that the audit consumer signs, whatever the database says.

    Looks at an export of the tenant's audit session with nothing but the public key; with witnesses, a stolen
    checkpoint key proves nothing. Exit code 1 when it is not there.
    """
    from flotilla_cli.revocations import prove_revocation, read_proof_policy

    policy = read_proof_policy(find_checkpoint_key_file(public_key), witness or [], witnesses, origin)
    wait_s = COSIGNED_WITHIN_S if witness else SIGNED_WITHIN_S
    found = prove_revocation(call.gateway, fingerprint, policy, wait_s=wait_s if wait else 0)
    call.show(found, lambda: print_fields(found))


def find_signer_id(call: VerbCall, subject: str, file: SigningKeyFile) -> str:
    """Return the id of the approved signer that `subject` has for this key.

    Raises:
        Misuse: there is none.
    """
    page = call.gateway.list_all_pages("/signers", "signers", 1000, subject=subject)
    found = [signer for signer in page["signers"] if signer["public_key"] == file.public_key]
    approved = [signer["signer_id"] for signer in found if signer["status"] == "approved"]
    if approved:
        return str(approved[0])
    is_now = f"is {found[0]['status']}" if found else "is not enrolled"
    raise Misuse(
        f"{subject}'s key {file.path} {is_now}", "flotilla signers enroll --key FILE, then an admin approves it"
    )


def _print_signer(signer: dict[str, Any]) -> None:
    print_fields({name: value for name, value in signer.items() if name not in ("signed", "credential_id")})
