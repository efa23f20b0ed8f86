"""Where passkeys are used."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class RelyingParty:
    """Where passkeys are used."""

    rp_id: str
    """The host that they are made for: that of the console, or a domain above it."""
    origins: tuple[str, ...]
    """The console's addresses, `https://flotilla.example.com`."""
