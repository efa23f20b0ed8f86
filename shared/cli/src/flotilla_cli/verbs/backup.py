"""`flotilla backup`: the whole fleet at one point, and back."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

from flotilla_cli.errors import CliError
from flotilla_cli.printing import OutputFormat, print_fields, print_json, print_notice, say
from flotilla_cli.verb import Output, docstring_as_help, examples_epilog, new_verb_group
from flotilla_cli.verbs.local import State

if TYPE_CHECKING:
    from flotilla.backup.verify import BackupVerdict

app = new_verb_group(
    "The whole fleet at one point: PostgreSQL, Kafka, Temporal's local database, keys. Servers are those of "
    "FLOTILLA_POSTGRES_DSN and FLOTILLA_KAFKA_BOOTSTRAP_SERVERS where these are set, else the local stack's."
)
Folder = Annotated[Path, typer.Argument(metavar="FOLDER", help="The backup's folder.", show_default=False)]
Passphrase = Annotated[
    Path | None,
    typer.Option(
        "--passphrase-file",
        metavar="FILE",
        help="Its first line encrypts the key files in the backup. Mode 0600; keep it elsewhere.",
        show_default=False,
    ),
]
KeyFiles = Annotated[
    list[Path] | None,
    typer.Option(
        "--key-file",
        metavar="FILE",
        envvar="FLOTILLA_ENCRYPTION_KEY_FILE",
        help="One more key file that the restored fleet needs, such as that of encryption; repeatable.",
        show_default=False,
    ),
]
PublicKey = Annotated[
    Path | None,
    typer.Option(
        "--public-key",
        metavar="PEM",
        help="Keys of those who may sign backups. Default: the local stack's backup-signing.pub.",
        show_default=False,
    ),
]
AuditPublicKey = Annotated[
    Path | None,
    typer.Option(
        "--audit-public-key",
        metavar="PEM",
        help="Keys of those who sign the audit log's checkpoints. Default: the local stack's.",
        show_default=False,
    ),
]


F = TypeVar("F", bound=Callable[..., None])


def _verb(name: str, *lines: str) -> Callable[[F], F]:
    def register(function: F) -> F:
        return app.command(name, help=docstring_as_help(function), epilog=examples_epilog(*lines))(function)

    return register


@_verb(
    "create",
    "flotilla backup create ~/backups/monday",
    "flotilla backup create ~/backups/monday --passphrase-file ~/.flotilla-passphrase",
)
def create(
    folder: Folder,
    state: State = None,
    passphrase_file: Passphrase = None,
    key_file: KeyFiles = None,
    output: Output = OutputFormat.TABLE,
) -> None:
    """Write a backup of a fleet that goes on working into a new folder, signed and with hashes.

    Its point is that of PostgreSQL's snapshot. Without --passphrase-file the private keys are only referred to, by name
    and hash.
    """
    from flotilla_cli.local.backups import create_backup

    manifest = create_backup(folder, state, passphrase_file, key_file or [])
    if output is OutputFormat.JSON:
        print_json({"folder": str(folder), **manifest})
        return
    print_fields({"folder": str(folder), **manifest})
    if manifest["keys_by_reference"]:
        print_notice("The backup holds no private keys: keep a copy of them, or give a --passphrase-file.")
    print_notice(f"Check it: flotilla backup verify {folder}")


@_verb("verify", "flotilla backup verify ~/backups/monday", "flotilla backup verify ~/backups/monday -o json")
def verify(
    folder: Folder,
    state: State = None,
    public_key: PublicKey = None,
    audit_public_key: AuditPublicKey = None,
    output: Output = OutputFormat.TABLE,
) -> None:
    """Verify a backup by itself, without a fleet: signature, hashes, counts, chains, checkpoints, Kafka's records."""
    from flotilla_cli.local.backups import verify_backup

    verdict = verify_backup(folder, state, public_key, audit_public_key)
    if output is OutputFormat.JSON:
        print_json(verdict.as_json_object())
    else:
        _print(verdict)
    if not verdict.ok:
        raise CliError(f"{folder} is not a good backup", "restore another one")


def _print(verdict: "BackupVerdict") -> None:
    print_fields({name: value for name, value in verdict.as_json_object().items() if name != "problems"})
    for problem in verdict.problems:
        say(f"✗ {problem}", style="red")
    if verdict.ok:
        say("✓ GOOD: the backup is whole, and agrees with itself.", style="green")
    if not verdict.signatures_checked:
        print_notice("Signatures of checkpoints were not checked: name their key by --audit-public-key.")


@_verb(
    "restore",
    "flotilla backup restore ~/backups/monday --state ~/flotilla-restored",
    "flotilla backup restore ~/backups/monday --public-key backup-signing.pub --passphrase-file ~/.flotilla-passphrase",
)
def restore(
    folder: Folder,
    state: State = None,
    public_key: PublicKey = None,
    passphrase_file: Passphrase = None,
    output: Output = OutputFormat.TABLE,
) -> None:
    """Restore a backup into an empty fleet. One that was killed goes on when it is repeated.

    A local stack is restored into a new folder, and started afterwards by flotilla up. Elsewhere the services must not
    run, and PostgreSQL's database and Kafka's topics must be empty: what is there is named, and nothing is changed.
    """
    from flotilla_cli.local.backups import restore_backup

    document = restore_backup(folder, state, public_key, passphrase_file)
    if output is OutputFormat.JSON:
        print_json(document)
        return
    print_fields(document)
    say("It had been restored here before; nothing was changed." if document["was_done"] else "Restored.")
    if document["state"]:
        print_notice(f"Start it: flotilla up --state {document['state']}")
