"""Signs statements with a person's own key: an OpenSSH key by `ssh-keygen`, or an Ed25519 key in PEM."""

import base64
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flotilla.contracts.envelope import to_builtins
from flotilla.contracts.votes import SSH_NAMESPACE, Signature, Signed, SignerKind
from flotilla_cli.errors import CliError, Misuse

_PEM = b"-----BEGIN PRIVATE KEY-----"
_TIMEOUT_S = 120
"""For a passphrase, or a touch of a security key."""


@dataclass(frozen=True, slots=True)
class SigningKeyFile:
    """A key that can sign; the private half stays in its file or its agent."""

    path: Path
    kind: SignerKind
    public_key: str

    def sign(self, statement: str) -> Signed:
        """Return the statement with its signature.

        Raises:
            CliError: the key can't be used.
        """
        value = _ssh_signature(self.path, statement) if self.kind == "ssh" else _pem_signature(self.path, statement)
        return Signed(statement=statement, signature=Signature(value=value))


def open_signing_key(path: Path) -> SigningKeyFile:
    """Return the key of a file: OpenSSH, private or (with its private half in an agent) public, or Ed25519 in PEM.

    Raises:
        Misuse: it is no such file.
    """
    from flotilla.votes.keys import to_ssh_key_line

    try:
        content = path.read_bytes()
    except OSError as error:
        raise Misuse(f"key file {path} can't be read: {error.strerror}", "name a key: ~/.ssh/id_ed25519") from error
    if content.lstrip().startswith(_PEM):
        return SigningKeyFile(path, "ed25519", to_ssh_key_line(_pem_key(path).public_key()))
    public = content if content.startswith((b"ssh-", b"ecdsa-")) else _derived(path)
    return SigningKeyFile(path, "ssh", " ".join(public.decode(errors="replace").split()[:2]))


def signed_statement_body(signed: Signed) -> dict[str, Any]:
    """Return the signed statement as the API takes it."""
    body: dict[str, Any] = to_builtins(signed)
    return body


def _derived(path: Path) -> bytes:
    """The public half: from the file beside the private one, which needs no passphrase, or from the private one."""
    beside = path.with_name(path.name + ".pub")
    return beside.read_bytes() if beside.is_file() else _ssh_keygen("-y", "-f", str(path)).stdout


def _ssh_signature(path: Path, statement: str) -> str:
    done = _ssh_keygen("-Y", "sign", "-q", "-n", SSH_NAMESPACE, "-f", str(path), given=statement.encode())
    return done.stdout.decode()


def _ssh_keygen(*arguments: str, given: bytes | None = None) -> "subprocess.CompletedProcess[bytes]":
    program = shutil.which("ssh-keygen")
    if program is None:
        raise CliError("ssh-keygen is not installed", "install OpenSSH's client, or use an Ed25519 key in PEM")
    command = [program, *arguments]
    try:
        done = subprocess.run(command, input=given, capture_output=True, check=False, timeout=_TIMEOUT_S)  # noqa: S603
    except subprocess.TimeoutExpired as error:
        raise CliError(
            f"ssh-keygen did not end within {_TIMEOUT_S} s: run it by hand to see what it waits for",
            "is the key waiting for a touch?",
        ) from error
    if done.returncode != 0:
        message = done.stderr.decode(errors="replace").strip()
        raise CliError(f"ssh-keygen {arguments[0]} failed: {message}", "check the key file and its passphrase")
    return done


def _pem_key(path: Path) -> "Any":
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    try:
        key = load_pem_private_key(path.read_bytes(), password=None)
    except (ValueError, TypeError) as error:
        raise Misuse(f"{path} is not a private key in PEM without a password", "check the file") from error
    if not isinstance(key, Ed25519PrivateKey):
        raise Misuse(f"{path} is not an Ed25519 key", "openssl genpkey -algorithm ed25519 makes one")
    return key


def _pem_signature(path: Path, statement: str) -> str:
    return base64.b64encode(_pem_key(path).sign(statement.encode())).decode()
