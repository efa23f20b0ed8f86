"""From the Authorization header, or the console's cookie, to a principal."""

from dataclasses import replace

from starlette.requests import Request

from flotilla.contracts.api_keys import KEY_PREFIX, TOKEN_PREFIX
from flotilla.contracts.errors import Forbidden
from flotilla.contracts.identity import LOCAL_ISSUER
from gateway.auth.api_keys import ApiKeys
from gateway.auth.impersonation import Impersonation
from gateway.auth.oidc import OidcTokens
from gateway.auth.on_behalf import HEADER, read_on_behalf_of_header
from gateway.auth.principal import Principal, Scope
from gateway.auth.sign_ins import SignInSessions
from gateway.problems import Unauthenticated, WrongCredentials

_SCHEME = "bearer"
_DOTS_OF_A_JWT = 2


class BrowserTokenNotAllowed(Forbidden):
    """A browser token asks for what it is not for."""

    def __init__(self, caller: Principal, scope: Scope | None) -> None:
        self.caller = caller
        why = "can't call this: use the key of a service or person, outside of web pages"
        if scope is not None:
            why = f"lacks the scope {scope}: make one with it (POST /v1/tokens)"
        super().__init__(f"the browser token {why}")


class Authenticator:
    """Takes API keys, JWTs where a provider is set, and the console's cookie where there is no header."""

    def __init__(
        self,
        api_keys: ApiKeys,
        oidc: OidcTokens | None = None,
        sign_ins: SignInSessions | None = None,
        browser_tokens: ApiKeys | None = None,
    ) -> None:
        self.api_keys = api_keys
        self._browser_tokens = browser_tokens
        self._oidc = oidc
        self._sign_ins = sign_ins

    async def authenticate(self, request: Request, *, scope: Scope | None = None) -> Principal:
        """Return whose credentials the request has; with a browser token only where it takes that `scope`.

        Raises:
            BrowserTokenNotAllowed: it is a browser token, and not for this.
            Unauthenticated: no credentials, or none that hold.
            CrossSite: another site made the browser send its cookie.
            RetryLater: they can't be checked now.
        """
        headers = request.headers.getlist("Authorization")
        if not headers:
            return replace(await self._signed_in(request), acts_for=None)  # a browser acts for nobody else
        scheme, _, token = headers[0].partition(" ")
        token = token.strip()
        if len(headers) > 1 or scheme.lower() != _SCHEME or not token:
            raise WrongCredentials("the Authorization header is not one of the form: Bearer …")
        principal = await self._principal_of(token)
        if principal is None:
            raise WrongCredentials("the key or token is unknown, expired or revoked")
        if principal.grant is not None and scope not in principal.grant.scopes:
            raise BrowserTokenNotAllowed(principal, scope)
        return principal

    async def _signed_in(self, request: Request) -> Principal:
        if self._sign_ins is None or not self._sign_ins.has_cookie(request):
            raise Unauthenticated("give an API key or a token: Authorization: Bearer …")
        principal = await self._sign_ins.find_principal(request)
        if principal is None:
            raise Unauthenticated("nobody is logged in here any more: log in again")
        return principal

    async def check_may_impersonate(self, acting: Principal, caller: Principal) -> None:
        """Raise Impersonation where `caller` acts on behalf of what is not a person."""
        if acting.acted_by is None or acting.issuer != LOCAL_ISSUER:
            return
        if await self.api_keys.is_service(acting.tenant_id, acting.subject):
            why = f"{acting.subject} is a service: {HEADER} names a person"
            raise Impersonation("service", caller, acting.subject, why)

    async def _principal_of(self, token: str) -> Principal | None:
        if token.startswith(TOKEN_PREFIX) and self._browser_tokens is not None:
            return await self._browser_tokens.find_principal(token)
        is_jwt = not token.startswith(KEY_PREFIX) and token.count(".") == _DOTS_OF_A_JWT
        if is_jwt and self._oidc is not None:
            return await self._oidc.find_principal(token)
        return await self.api_keys.find_principal(token)


def acting_principal(request: Request, caller: Principal) -> Principal:
    """Return who acts: the caller, or the person on whose behalf the caller may act. Looks at nothing but the request.

    Raises:
        Impersonation: the caller may not act on behalf of others.
        MalformedSubject: it can't be said of whom.
    """
    subject = read_on_behalf_of_header(request)
    if subject is None:
        return caller
    if caller.acts_for is None or caller.is_person:
        raise _no_right(caller, subject)
    return caller.on_behalf_of(subject, caller.acts_for)


def _no_right(principal: Principal, subject: str) -> Impersonation:
    return Impersonation(
        "no_right",
        principal,
        subject,
        f"{principal.subject} may not act on behalf of others: leave {HEADER} out, or use a service's API key that was "
        "made with may_act_for_others",
    )
