"""Why a signature does not count."""

from flotilla.contracts.errors import Refused


class Unproven(Refused):
    """A signature, or what it should prove, does not hold."""
