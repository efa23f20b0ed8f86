"""From the Authorization header to a principal."""

from starlette.requests import Request

from flotilla.contracts.api_keys import KEY_PREFIX
from gateway.auth.api_keys import ApiKeys
from gateway.auth.oidc import Oidc
from gateway.auth.principal import Principal
from gateway.problems import Unauthenticated

_SCHEME = "bearer"
_DOTS_OF_A_JWT = 2


class Authenticator:
    """Takes API keys, and JWTs where a provider is set."""

    def __init__(self, api_keys: ApiKeys, oidc: Oidc | None = None) -> None:
        self.api_keys = api_keys
        self._oidc = oidc

    async def authenticate(self, request: Request) -> Principal:
        """Who calls.

        Raises:
            Unauthenticated: no credentials, or none that hold.
            RetryLater: they can't be checked now.
        """
        headers = request.headers.getlist("Authorization")
        if not headers:
            raise Unauthenticated("give an API key or a token: Authorization: Bearer …")
        scheme, _, token = headers[0].partition(" ")
        token = token.strip()
        if len(headers) > 1 or scheme.lower() != _SCHEME or not token:
            raise Unauthenticated("the Authorization header is not one of the form: Bearer …")
        principal = await self._principal_of(token)
        if principal is None:
            raise Unauthenticated("the key or token is unknown, expired or revoked")
        return principal

    async def _principal_of(self, token: str) -> Principal | None:
        is_jwt = not token.startswith(KEY_PREFIX) and token.count(".") == _DOTS_OF_A_JWT
        if is_jwt and self._oidc is not None:
            return await self._oidc.principal_of(token)
        return await self.api_keys.principal_of(token)
