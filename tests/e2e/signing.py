"""People who sign their votes with the command line, and the administrator who approves their keys."""

from dataclasses import dataclass
from pathlib import Path

from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from tests.support.votes import Ed25519Key

POLICY = """
version = "e2e"
extends = "builtin:local"
[actions.echo.high]
signature = "required"
quorum = 2
"""


def write_key(file: Path, key: Ed25519Key) -> Path:
    """Write the private key as PEM."""
    file.write_bytes(key.private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    return file


@dataclass(frozen=True)
class Root:
    """Grace, the operators' files that name her, and her key."""

    policy_file: Path
    roots_file: Path
    key_file: Path

    @classmethod
    def made(cls, folder: Path) -> "Root":
        key = Ed25519Key()
        policy, roots = folder / "policy.toml", folder / "roots.toml"
        policy.write_text(POLICY)
        roots.write_text(roots_text(key))
        return cls(policy, roots, write_key(folder / "grace.pem", key))


def roots_text(key: Ed25519Key) -> str:
    """A file of roots in which Grace is the only one."""
    return f'[[roots]]\ntenant = "default"\nsubject = "grace"\nkind = "ed25519"\npublic_key = "{key.public_key}"\n'
