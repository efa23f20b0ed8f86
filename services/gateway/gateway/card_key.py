"""The key that signs A2A agent cards."""

from dataclasses import dataclass, field
from pathlib import Path

from flotilla.config.signing import Signer, load_signer


@dataclass(frozen=True, slots=True)
class CardKey:
    """The key that signs cards."""

    signer: Signer
    pem: bytes = field(repr=False)

    @classmethod
    def load(cls, file: Path) -> "CardKey":
        """Read it from a file.

        Raises:
            ConfigurationError: no such file, or it holds no Ed25519 private key.
        """
        return cls(load_signer(file), file.read_bytes())
