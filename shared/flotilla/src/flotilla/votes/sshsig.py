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

SSHSIG_MAGIC = b"SSHSIG"
_BEGIN, _END = "-----BEGIN SSH SIGNATURE-----", "-----END SSH SIGNATURE-----"
_HASH_BY_NAME = {b"sha256": hashlib.sha256, b"sha512": hashlib.sha512}


def verify_sshsig(public_key: str, message: bytes, armored: str, namespace: str) -> None:
    """Check that `armored` is the signature of `public_key` over `message` for that namespace.

    Raises:
        Unproven: it is not.
    """
    reader = _SshWireReader(_decode_armor(armored))
    if reader.read_bytes(len(SSHSIG_MAGIC)) != SSHSIG_MAGIC or reader.read_uint32() != 1:
        raise Unproven("not an SSH signature of version 1")
    key = load_ssh_key(public_key)
    if reader.read_string() != binascii.a2b_base64(public_key.split(" ")[1]):
        raise Unproven("the SSH signature is of another key")
    if (named := reader.read_string()) != namespace.encode():
        raise Unproven(f"the SSH signature is for namespace {named!r}: sign with -n {namespace}")
    reserved, algorithm, signature = reader.read_string(), reader.read_string(), reader.read_string()
    reader.check_at_end()
    if (hashed := _HASH_BY_NAME.get(algorithm)) is None:
        raise Unproven(f"the SSH signature uses the hash {algorithm!r}, not sha256 or sha512")
    signed = SSHSIG_MAGIC + b"".join(
        map(_encode_ssh_string, (namespace.encode(), reserved, algorithm, hashed(message).digest()))
    )
    try:
        _verify_signature_blob(key, signature, signed)
    except InvalidSignature as error:
        raise Unproven("the SSH signature does not hold") from error


def _verify_signature_blob(key: SshKey, signature: bytes, signed: bytes) -> None:
    reader = _SshWireReader(signature)
    algorithm, value = reader.read_string(), reader.read_string()
    reader.check_at_end()
    if isinstance(key, Ed25519PublicKey):
        _check_algorithm(algorithm, b"ssh-ed25519")
        key.verify(value, signed)
        return
    _check_algorithm(algorithm, b"ecdsa-sha2-nistp256")
    numbers = _SshWireReader(value)
    r, s = (int.from_bytes(numbers.read_string(), "big", signed=True) for _ in range(2))
    numbers.check_at_end()
    if r <= 0 or s <= 0:
        raise InvalidSignature
    key.verify(encode_dss_signature(r, s), signed, ECDSA(SHA256()))


def _check_algorithm(algorithm: bytes, expected: bytes) -> None:
    if algorithm != expected:
        raise Unproven(f"the SSH signature's algorithm is {algorithm!r}, not {expected!r}")


def _decode_armor(armored: str) -> bytes:
    lines = armored.strip().splitlines()
    if not lines or lines[0] != _BEGIN or lines[-1] != _END:
        raise Unproven("not the text that ssh-keygen -Y sign writes")
    try:
        return binascii.a2b_base64("".join(lines[1:-1]).encode(), strict_mode=True)
    except ValueError as error:
        raise Unproven("the SSH signature is not base64") from error


def _encode_ssh_string(value: bytes) -> bytes:
    return len(value).to_bytes(4, "big") + value


class _SshWireReader:
    """The wire form of RFC 4251, section 5."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def read_bytes(self, size: int) -> bytes:
        """Return the next `size` bytes."""
        part = self._data[self._at : self._at + size]
        if len(part) != size:
            raise Unproven("the SSH signature is cut off")
        self._at += size
        return part

    def read_uint32(self) -> int:
        """Return the next uint32."""
        return int.from_bytes(self.read_bytes(4), "big")

    def read_string(self) -> bytes:
        """Return the next string."""
        return self.read_bytes(self.read_uint32())

    def check_at_end(self) -> None:
        """Check that nothing follows."""
        if self._at != len(self._data):
            raise Unproven("the SSH signature has more than it should")
