"""Logins of Redis whose password is read at each connect."""

from collections.abc import Callable

from redis.credentials import CredentialProvider


class PasswordFileCredentials(CredentialProvider):
    """A user whose password is read at each connect."""

    def __init__(self, user: str | None, password: Callable[[], str]) -> None:
        self._user, self._password = user, password

    async def get_credentials_async(self) -> tuple[str] | tuple[str, str]:
        """Return password, or user and password, as AUTH takes them."""
        return (self._password(),) if self._user is None else (self._user, self._password())
