"""Which keys the checkpoints of an export have to be signed with."""

from pathlib import Path
from typing import Annotated

import typer

from flotilla_cli.errors import Misuse

PublicKey = Annotated[
    Path | None,
    typer.Option(
        "--public-key",
        metavar="PEM",
        envvar="FLOTILLA_AUDIT_PUBLIC_KEY_FILE",
        help="Who may have signed the export. Default: the local stack's key.",
        show_default=False,
    ),
]


def find_checkpoint_key_file(given: Path | None) -> Path:
    """Return the public key of those who may sign checkpoints: the one that is given, else the local stack's.

    Raises:
        Misuse: there is neither.
    """
    if given is not None:
        return given
    from flotilla_devstack import default_state_dir
    from flotilla_devstack.folders import StateDir

    key = StateDir(default_state_dir()).public_key_file
    if not key.exists():
        raise Misuse("no public key given", "--public-key PEM takes the audit consumer's public key")
    return key
