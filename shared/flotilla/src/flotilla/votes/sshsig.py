"""Signatures of `ssh-keygen -Y sign` (openssh-portable, PROTOCOL.sshsig), by Ed25519 and ECDSA P-256 keys."""

import binascii
import hashlib

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ec import ECDSA
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256

from flotilla.votes.errors import Unproven
from flotilla.votes.keys import SshKey, load_ssh_key

MAGIC = b"SSHSIG"
_BEGIN, _END = "-----BEGIN SSH SIGNATURE-----", "-----END SSH SIGNATURE-----"
_HASHES = {b"sha256": hashlib.sha256, b"sha512": hashlib.sha512}


def verify_sshsig(public_key: str, message: bytes, armored: str, namespace: str) -> None:
    """Check that `armored` is the signature of `public_key` over `message` for that namespace.

    Raises:
        Unproven: it is not.
    """
    reader = _Reader(_dearmored(armored))
    if reader.take(len(MAGIC)) != MAGIC or reader.number() != 1:
        raise Unproven("not an SSH signature of version 1")
    key = load_ssh_key(public_key)
    if reader.string() != binascii.a2b_base64(public_key.split(" ")[1]):
        raise Unproven("the SSH signature is of another key")
    if (named := reader.string()) != namespace.encode():
        raise Unproven(f"the SSH signature is for namespace {named!r}: sign with -n {namespace}")
    reserved, algorithm, signature = reader.string(), reader.string(), reader.string()
    reader.finish()
    if (hashed := _HASHES.get(algorithm)) is None:
        raise Unproven(f"the SSH signature uses the hash {algorithm!r}, not sha256 or sha512")
    signed = MAGIC + b"".join(map(_string, (namespace.encode(), reserved, algorithm, hashed(message).digest())))
    try:
        _verify(key, signature, signed)
    except InvalidSignature as error:
        raise Unproven("the SSH signature does not hold") from error


def _verify(key: SshKey, signature: bytes, signed: bytes) -> None:
    reader = _Reader(signature)
    algorithm, value = reader.string(), reader.string()
    reader.finish()
    if isinstance(key, Ed25519PublicKey):
        _check_algorithm(algorithm, b"ssh-ed25519")
        key.verify(value, signed)
        return
    _check_algorithm(algorithm, b"ecdsa-sha2-nistp256")
    numbers = _Reader(value)
    r, s = (int.from_bytes(numbers.string(), "big", signed=True) for _ in range(2))
    numbers.finish()
    if r <= 0 or s <= 0:
        raise InvalidSignature
    key.verify(encode_dss_signature(r, s), signed, ECDSA(SHA256()))


def _check_algorithm(algorithm: bytes, expected: bytes) -> None:
    if algorithm != expected:
        raise Unproven(f"the SSH signature's algorithm is {algorithm!r}, not {expected!r}")


def _dearmored(armored: str) -> bytes:
    lines = armored.strip().splitlines()
    if not lines or lines[0] != _BEGIN or lines[-1] != _END:
        raise Unproven("not the text that ssh-keygen -Y sign writes")
    try:
        return binascii.a2b_base64("".join(lines[1:-1]).encode(), strict_mode=True)
    except ValueError as error:
        raise Unproven("the SSH signature is not base64") from error


def _string(value: bytes) -> bytes:
    return len(value).to_bytes(4, "big") + value


class _Reader:
    """The wire form of RFC 4251, section 5."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def take(self, size: int) -> bytes:
        """Return the next `size` bytes."""
        part = self._data[self._at : self._at + size]
        if len(part) != size:
            raise Unproven("the SSH signature is cut off")
        self._at += size
        return part

    def number(self) -> int:
        """Return the next uint32."""
        return int.from_bytes(self.take(4), "big")

    def string(self) -> bytes:
        """Return the next string."""
        return self.take(self.number())

    def finish(self) -> None:
        """Check that nothing follows."""
        if self._at != len(self._data):
            raise Unproven("the SSH signature has more than it should")
