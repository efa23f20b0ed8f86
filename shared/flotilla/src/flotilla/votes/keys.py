"""Public keys of people: one text form each, and a fingerprint like that of `ssh-keygen -l`."""

import base64
import binascii
import hashlib
from dataclasses import dataclass

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_ssh_public_key

from flotilla.contracts.votes import SignerKind
from flotilla.votes.errors import Unproven, require_passkey_library

SshKey = Ed25519PublicKey | EllipticCurvePublicKey
COSE_KEY_KIND = "cose"


@dataclass(frozen=True, slots=True)
class SignerPublicKey:
    """A public key that was read and is usable."""

    kind: SignerKind
    text: str
    blob: bytes
    """SSH's wire form, or the COSE key."""
    credential_id: str = ""

    @property
    def fingerprint(self) -> str:
        """`SHA256:...`, as OpenSSH shows it; for a passkey the same over its COSE key."""
        return "SHA256:" + base64.b64encode(hashlib.sha256(self.blob).digest()).decode().rstrip("=")


def parse_signer_key(kind: SignerKind, text: str, credential_id: str = "") -> SignerPublicKey:
    """Return the key of a statement or of the roots.

    Raises:
        Unproven: it is not a key of that kind, or not in its one spelling.
    """
    if (kind == "passkey") != bool(credential_id):
        raise Unproven("a passkey, and nothing else, has a credential id")
    if kind == "passkey":
        name, _, encoded = text.partition(" ")
        blob = decode_base64(encoded)
        if name != COSE_KEY_KIND:
            raise Unproven("the public key of a passkey is written as `cose` and the base64 of its COSE key")
        with require_passkey_library():
            from flotilla.votes.passkeys import check_cose_key
        check_cose_key(blob)
        return SignerPublicKey(kind, text, blob, credential_id)
    key = load_ssh_key(text)
    if kind == "ed25519" and not isinstance(key, Ed25519PublicKey):
        raise Unproven("the public key is not Ed25519")
    return SignerPublicKey(kind, text, decode_base64(text.partition(" ")[2]))


def load_ssh_key(text: str) -> SshKey:
    """Return the key of an OpenSSH public key line without a comment.

    Raises:
        Unproven: it is no such line, or of another algorithm than Ed25519 and ECDSA on P-256.
    """
    try:
        key = load_ssh_public_key(text.encode())
    except (ValueError, UnsupportedAlgorithm) as error:
        raise Unproven(f"the public key is not an OpenSSH public key: {error}") from error
    if not isinstance(key, Ed25519PublicKey) and not (
        isinstance(key, EllipticCurvePublicKey) and isinstance(key.curve, SECP256R1)
    ):
        raise Unproven("the public key is neither ssh-ed25519 nor ecdsa-sha2-nistp256")
    if to_ssh_key_line(key) != text:
        raise Unproven("a public key is written as `ssh-ed25519 AAAA...`, without a comment")
    return key


def to_ssh_key_line(key: SshKey) -> str:
    """Return the key as an OpenSSH public key line without a comment."""
    return key.public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()


def decode_base64(text: str) -> bytes:
    """Return the bytes of base64 in its one spelling.

    Raises:
        Unproven: it is not base64.
    """
    try:
        raw = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise Unproven("not base64") from error
    if base64.b64encode(raw).decode() != text:
        raise Unproven("not base64 as it is written by everybody else")
    return raw
