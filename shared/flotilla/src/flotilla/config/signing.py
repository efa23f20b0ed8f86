"""Ed25519 (RFC 8032) for checkpoints and tickets: who signs holds the private key, everybody else public ones."""

import re
from collections.abc import Iterable, Mapping
from hashlib import sha256
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from flotilla.contracts.errors import ConfigurationError

_RAW = serialization.Encoding.Raw
_PEM = serialization.Encoding.PEM
_BLOCK = re.compile(rb"-----BEGIN ([A-Z ]+)-----.*?-----END \1-----", re.DOTALL)


class Signer:
    """Signs with one private key."""

    def __init__(self, key: Ed25519PrivateKey) -> None:
        self._key = key
        self.key_id = public_key_id(key.public_key())

    def sign(self, statement: bytes) -> bytes:
        """The signature, 64 bytes."""
        return self._key.sign(statement)

    def public_keys(self) -> "PublicKeys":
        """What verifies this signer's signatures."""
        return PublicKeys.of(self)

    @property
    def public_key(self) -> Ed25519PublicKey:
        """The public half."""
        return self._key.public_key()


class PublicKeys:
    """The public keys that a verifier trusts, by key id: the current one and those it replaced."""

    def __init__(self, keys: Mapping[str, Ed25519PublicKey]) -> None:
        self._keys = dict(keys)

    @classmethod
    def of(cls, *signers: Signer) -> "PublicKeys":
        """The public keys of all these signers."""
        return cls({signer.key_id: signer.public_key for signer in signers})

    def each(self) -> Iterable[Ed25519PublicKey]:
        """The keys, in no particular order."""
        return self._keys.values()

    @property
    def by_id(self) -> Mapping[str, Ed25519PublicKey]:
        """The keys by their ids."""
        return self._keys

    def signature_problem(self, key_id: str, statement: bytes, signature: bytes) -> str | None:
        """Why the signature does not hold; None when it does."""
        key = self._keys.get(key_id)
        if key is None:
            return f"is signed with key {key_id}, which is not among the trusted ones"
        try:
            key.verify(signature, statement)
        except InvalidSignature:
            return f"has a wrong signature (key {key_id})"
        return None


def public_key_id(key: Ed25519PublicKey) -> str:
    """The first 16 hex digits of SHA-256 over the raw public key."""
    raw = key.public_bytes(_RAW, serialization.PublicFormat.Raw)
    return sha256(raw).hexdigest()[:16]


def create_key_pair(private_file: Path, public_file: Path) -> str:
    """Write a new pair as PEM (private: PKCS 8, mode 0600) and give its key id. Existing files are kept as they are.

    Safe to run twice: with a private key in place, only a missing public file is written.
    """
    if not private_file.exists():
        key = Ed25519PrivateKey.generate()
        encoded = key.private_bytes(_PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        private_file.parent.mkdir(parents=True, exist_ok=True)
        # Written aside and renamed, so that an interrupted call leaves no half a key.
        fresh = private_file.with_name(private_file.name + ".new")
        fresh.touch(mode=0o600)
        fresh.write_bytes(encoded)
        fresh.replace(private_file)
    write_public_key(private_file, public_file)
    return load_signer(private_file).key_id


def write_public_key(private_file: Path, public_file: Path) -> None:
    """Write the public half of a private key as PEM, for verifiers; a file that exists is kept (it may hold more).

    Raises:
        ConfigurationError: `private_file` can't be read, or holds no Ed25519 key.
    """
    if not public_file.exists():
        public_file.parent.mkdir(parents=True, exist_ok=True)
        public_file.write_bytes(_public_pem(private_file))


def signer_with_new_key() -> Signer:
    """A signer with a new key, which nobody else has."""
    return Signer(Ed25519PrivateKey.generate())


def load_signer(file: Path) -> Signer:
    """The signer of a private key in PEM.

    Raises:
        ConfigurationError: no such file, or it holds no Ed25519 private key.
    """
    return Signer(_private_key(file))


def load_public_keys(file: Path) -> PublicKeys:
    """The keys of a file with one or more public keys in PEM, or certificates of such keys.

    A certificate is a wrapper here: what is trusted is the file, so neither its issuer nor its dates are looked at.

    Raises:
        ConfigurationError: no such file, or something in it is not an Ed25519 public key.
    """
    keys = []
    for block in _BLOCK.finditer(_read(file)):
        try:
            key = _public_key(block[0], is_certificate=block[1] == b"CERTIFICATE")
        except (ValueError, UnsupportedAlgorithm) as error:
            raise ConfigurationError(f"{file} holds something that is not a public key in PEM: {error}") from error
        if not isinstance(key, Ed25519PublicKey):
            raise ConfigurationError(f"{file} holds a key that is not Ed25519")
        keys.append(key)
    if not keys:
        raise ConfigurationError(f"{file} holds no public key: give one in PEM")
    return PublicKeys({public_key_id(key): key for key in keys})


def _public_key(pem: bytes, *, is_certificate: bool) -> object:
    if is_certificate:
        return x509.load_pem_x509_certificate(pem).public_key()
    return serialization.load_pem_public_key(pem)


def _private_key(file: Path) -> Ed25519PrivateKey:
    try:
        key = serialization.load_pem_private_key(_read(file), password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise ConfigurationError(f"{file} is not a private key in PEM without a password: {error}") from error
    if not isinstance(key, Ed25519PrivateKey):
        raise ConfigurationError(f"{file} is not an Ed25519 key: `openssl genpkey -algorithm ed25519` makes one")
    return key


def _public_pem(private_file: Path) -> bytes:
    return _private_key(private_file).public_key().public_bytes(_PEM, serialization.PublicFormat.SubjectPublicKeyInfo)


def _read(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise ConfigurationError(f"key file {file} can't be read: {error.strerror}") from error
