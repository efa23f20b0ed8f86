"""Why a signature does not count."""

from collections.abc import Iterator
from contextlib import contextmanager

from flotilla.contracts.errors import Refused


class Unproven(Refused):
    """A signature, or what it should prove, does not hold."""


@contextmanager
def require_passkey_library() -> Iterator[None]:
    """Import what checks passkeys inside the block: an agent of one's own may lack the package.

    Raises:
        Unproven: it does, so a passkey proves nothing there.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        raise Unproven(f"no passkey can be checked here ({error}): install flotilla-fleet[votes]") from error
