"""Deny by default: every route says who may call it, and is reached only after that was checked.

@router.post("/v1/sessions", status_code=201)
@allow(OPERATORS)
async def create_session(...): ...

A route without that can't be made. Checks come before the body is read: who calls, their rate and their
tenant's, their role, the names in the query, then the body's size and nesting.
"""

from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any, TypeVar

from fastapi import APIRouter
from fastapi.routing import APIRoute
from starlette.requests import Request
from starlette.responses import Response

from flotilla.contracts.errors import ConfigurationError, Forbidden, Invalid
from flotilla.contracts.names import AUDIT_SESSION, join_id_parts
from flotilla.postgres import SuspendedTenants, set_viewer
from gateway.auth.authenticator import Authenticator, BrowserTokenNotAllowed, acting_principal
from gateway.auth.impersonation import VOTE_ROUTE, Impersonation, RefusedImpersonationLog
from gateway.auth.on_behalf import MalformedSubject
from gateway.auth.principal import OPERATORS, Principal, Role, Scope
from gateway.limits import RequestRateLimiter, check_json_complexity, limit_body_size
from gateway.problems import NotJson, WrongCredentials
from gateway.query import check_query_parameters, query_parameter_names

F = TypeVar("F", bound=Callable[..., Any])
_ACCESS = "__flotilla_access__"
_WITHOUT_BODY = ("GET", "HEAD")
NO_BODY_BYTES = 1024
"""Of a request whose route takes no body: room for the `{}` or `null` that some clients send."""
STRANGERS_BODY_BYTES = 4096
"""Of a request that needs no credentials."""
TEXT_BODY_BYTES = 256 * 1024
"""Room for the longest question, each of its characters escaped."""


@dataclass(frozen=True, slots=True)
class RouteAccess:
    """Who may call a route, and what it reads."""

    roles: frozenset[Role]
    """One of these is needed; empty lets anybody in, without credentials."""
    form_bytes: int | None = None
    """Set for a route that takes a form with a file: its limit."""
    free_json: bool = False
    """Set for a route that stores JSON of the caller's own: it takes as much as the settings allow."""
    for_others: bool = False
    """Set for a route that a service may call on behalf of a person."""
    any_query: bool = False
    """Set for a route that somebody else's program calls: it ignores query parameters that it does not know."""
    query_prefix: str = ""
    """Begins the names of further query parameters, which the caller chooses; empty allows none."""
    browsers: Scope | None = None
    """The scope that a browser token needs for the route; None is for routes that none may call."""

    def max_body_bytes(self, *, takes_body: bool, configured: int) -> int:
        """The largest JSON body of the route."""
        if not takes_body:
            return NO_BODY_BYTES
        if not self.roles:
            return STRANGERS_BODY_BYTES
        return configured if self.free_json else min(TEXT_BODY_BYTES, configured)


def allow(
    roles: frozenset[Role],
    *,
    form_bytes: int | None = None,
    free_json: bool = False,
    for_others: bool = False,
    any_query: bool = False,
    query_prefix: str = "",
    browsers: Scope | None = None,
) -> Callable[[F], F]:
    """Declares who may call the endpoint, and how much it reads."""

    def declare(endpoint: F) -> F:
        access = RouteAccess(roles, form_bytes, free_json, for_others, any_query, query_prefix, browsers)
        setattr(endpoint, _ACCESS, access)
        return endpoint

    return declare


PUBLIC: frozenset[Role] = frozenset()
"""For the few routes that need no credentials."""


@dataclass(frozen=True, slots=True)
class RateLimits:
    """How often one may ask: a person, a service, everybody in a tenant."""

    tenant: RequestRateLimiter
    person: RequestRateLimiter
    service: RequestRateLimiter

    def take(self, principal: Principal) -> None:
        """Count a request, the narrowest limit first: what a person or service is refused takes nothing from others.

        Raises:
            TooMany: one of them is used up.
        """
        if principal.limited_person is not None:
            self.person.take(join_id_parts(principal.tenant_id, principal.limited_person))
        if principal.limited_service is not None:
            self.service.take(join_id_parts(principal.tenant_id, principal.limited_service))
        self.tenant.take(principal.tenant_id)


@dataclass(frozen=True, slots=True)
class RequestGuard:
    """What is checked before a route's own code."""

    authenticator: Authenticator
    rates: RateLimits
    strangers: RequestRateLimiter
    failures: RequestRateLimiter
    max_body_bytes: int
    max_json_depth: int
    max_json_values: int
    impersonations: RefusedImpersonationLog
    session_operators: frozenset[str]
    tenants: SuspendedTenants

    async def authenticate_and_authorize(self, request: Request, access: RouteAccess) -> Principal:
        """Who calls, if they may. From here on, the request's transactions act for them.

        Raises:
            Unauthenticated, Forbidden, TooMany: they may not.
            TenantSuspended: nobody of their tenant may.
        """
        caller = await self._caller(request, access)
        try:
            principal = acting_principal(request, caller)
        except (Impersonation, MalformedSubject):
            self.rates.take(caller)  # else such requests would be without limit
            raise
        self.rates.take(principal)
        await self.tenants.check_active(principal.tenant_id)
        await self.authenticator.check_may_impersonate(principal, caller)
        if principal.acted_by is not None:
            _check_for_others(request, principal, access)
        roles = access.roles & OPERATORS if _asks_for_audit_session(request) else access.roles
        if not principal.roles & roles:
            needed = " or ".join(sorted(roles))
            raise Forbidden(f"this takes the role {needed}; {principal.subject} has: {_names(principal.roles)}")
        set_viewer(principal.database_viewer(self.session_operators))
        return principal

    async def _caller(self, request: Request, access: RouteAccess) -> Principal:
        try:
            return await self.authenticator.authenticate(request, scope=access.browsers)
        except BrowserTokenNotAllowed as refused:
            self.rates.take(refused.caller)  # else such requests would be without limit
            raise

    async def recheck_access(self, request: Request, caller: Principal) -> None:
        """Check again that the caller of an open stream may read it.

        Raises:
            Unauthenticated, Forbidden: no longer.
        """
        access: RouteAccess = request.scope["route"].access
        now = await self.authenticator.authenticate(request, scope=access.browsers)
        principal = acting_principal(request, now)
        await self.tenants.check_active(principal.tenant_id)
        await self.authenticator.check_may_impersonate(principal, now)
        if principal.tenant_name_and_service != caller.tenant_name_and_service:
            raise Forbidden("the credentials belong to somebody else now: open the stream again")
        if not principal.roles & access.roles:
            raise Forbidden("the credentials have lost the role that this stream needs")
        set_viewer(principal.database_viewer(self.session_operators))

    def count_anonymous_request(self, request: Request) -> None:
        """Counts a request that needs no credentials, by where it comes from.

        Raises:
            TooMany: too many came from there.
        """
        self.strangers.take(_address(request))

    def count_failed_authentication(self, request: Request) -> None:
        """Counts credentials that do not hold, by where they come from. Those that hold are never refused for it.

        Raises:
            TooMany: too many came from there.
        """
        self.failures.take(_address(request))

    async def limit_body(self, request: Request, access: RouteAccess, *, takes_body: bool) -> Request:
        """The request with a body that is safe to parse.

        Raises:
            TooLarge, NotJson, Invalid: it is not.
        """
        if access.form_bytes is not None:
            return limit_body_size(request, access.form_bytes)
        checked = limit_body_size(request, access.max_body_bytes(takes_body=takes_body, configured=self.max_body_bytes))
        if request.method not in _WITHOUT_BODY:
            body = await checked.body()
            _check_is_json(request, body)
            check_json_complexity(body, self.max_json_depth, self.max_json_values)
        return checked


def _asks_for_audit_session(request: Request) -> bool:
    """Whether the request names the session that records what administrators did: only they read it."""
    named = (request.path_params.get("session_id"), *request.query_params.getlist("session_id"))
    return AUDIT_SESSION in named


def _check_for_others(request: Request, person: Principal, access: RouteAccess) -> None:
    """Raise Impersonation where people act themselves or not at all: votes, keys, and everything that administers."""
    if access.for_others and not _asks_for_audit_session(request):
        return
    path = request.scope["route"].path
    why = f"{request.method} {path} can't be called on behalf of somebody else"
    raise Impersonation("vote" if path == VOTE_ROUTE else "operation", person, person.subject, why)


class GuardedRoute(APIRoute):
    """A route behind its `RouteAccess`."""

    access: RouteAccess

    def __init__(self, path: str, endpoint: Callable[..., Any], **options: Any) -> None:
        access = getattr(endpoint, _ACCESS, None)
        if access is None:
            raise ConfigurationError(f"route {path} does not say who may call it: declare it with @allow(…)")
        self.access = access
        super().__init__(path, endpoint, **options)

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """The handler, behind the guard."""
        handle = super().get_route_handler()
        access, takes_body = self.access, self.body_field is not None
        parameters = query_parameter_names(self.dependant)

        async def guarded(request: Request) -> Response:
            guard: RequestGuard = request.app.state.guard
            try:
                if access.roles:
                    request.state.principal = await guard.authenticate_and_authorize(request, access)
                else:
                    guard.count_anonymous_request(request)
                if not access.any_query:
                    check_query_parameters(request, parameters, access.query_prefix)
                return await handle(await guard.limit_body(request, access, takes_body=takes_body))
            except Impersonation as attempt:
                await guard.impersonations.record_refusal(request, attempt)
                raise
            except WrongCredentials:
                guard.count_failed_authentication(request)
                raise

        return guarded


def guarded_router(tag: str) -> APIRouter:
    """A router whose routes are all guarded. Paths are whole: `/v1/sessions`."""
    return APIRouter(route_class=GuardedRoute, tags=[tag], strict_content_type=False)


def _check_is_json(request: Request, body: bytes) -> None:
    media_type = request.headers.get("Content-Type", "").partition(";")[0].strip().lower()
    if body and media_type and media_type != "application/json" and not media_type.endswith("+json"):
        raise NotJson(media_type)
    try:
        body.decode()
    except UnicodeDecodeError as error:
        raise Invalid(f"the body is not UTF-8 (byte {error.start}), as JSON has to be") from error


def _address(request: Request) -> str:
    return request.client.host if request.client else ""


def _names(roles: frozenset[Role]) -> str:
    return ", ".join(sorted(roles)) or "none"
