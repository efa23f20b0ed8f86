"""Login to the console, logout, and who is asking.

The console's secret is in a cookie that scripts can't read and other sites' requests don't carry; see docs/adr for why.
"""

from typing import Annotated, TypeAlias

from fastapi import Query, Request, Response
from starlette.responses import RedirectResponse

from flotilla.contracts.errors import Forbidden, NotFound
from gateway.auth.principal import EVERYONE
from gateway.console_routes import MAX_LENGTH, safe_console_path
from gateway.guard import PUBLIC, allow, guarded_router
from gateway.login.code_flow import AuthorizationCodeFlow, AuthorizationResponse, LoginFailed
from gateway.problems import WrongCredentials
from gateway.routes.documented import documented_errors
from gateway.schemas.login import KeyLogin, LoginOptions, Me
from gateway.services import Caller, GatewayServices, Wired

router = guarded_router("login")
Word: TypeAlias = Annotated[str, Query(max_length=4096, description="As the provider gives it.")]
_REDIRECT = {"description": "On to `Location`."}
_NO_STORE = {"Cache-Control": "no-store"}


class KeyLoginOff(Forbidden):
    """This installation takes no API keys on the login page."""

    code = "key_login_off"


@router.get("/auth/config", response_model=LoginOptions, responses=documented_errors())
@allow(PUBLIC)
async def login_options(services: Wired) -> LoginOptions:
    """How to log in here, and where traces and workflows can be looked at."""
    return LoginOptions(
        key_login=services.login.by_key,
        oidc=services.login.code_flow is not None,
        trace_url_template=services.login.trace_url_template,
        temporal_ui_url=services.login.temporal_ui_url,
    )


@router.post("/auth/login", status_code=204, response_class=Response, responses=documented_errors(413, 415))
@allow(PUBLIC)
async def login_by_key(services: Wired, request: Request, body: KeyLogin) -> Response:
    """Log in with an API key, where that is allowed. The answer sets the cookie."""
    login = services.login
    login.sign_ins.origin.check_same_origin(request)  # else another site could log its visitors in as somebody else
    login.sign_ins.origin.check_login_is_secure(request)
    if not login.by_key:
        raise KeyLoginOff("API keys can't log in here: use the OpenID provider")
    principal = await services.api_keys.find_principal(body.key)
    if principal is None:
        raise WrongCredentials("the key is unknown, expired or revoked")
    await services.tenants.check_active(principal.tenant_id)
    response = Response(status_code=204, headers=_NO_STORE)
    await login.sign_ins.open(principal, request, response)
    return response


@router.post("/auth/logout", status_code=204, response_class=Response, responses=documented_errors(413, 415))
@allow(PUBLIC)
async def logout(services: Wired, request: Request) -> Response:
    """Log out. Needs nobody to be logged in."""
    sign_ins = services.login.sign_ins
    sign_ins.origin.check_same_origin(request)
    response = Response(status_code=204, headers=_NO_STORE)
    await sign_ins.end(request, response)
    return response


@router.get(
    "/auth/oidc/start", status_code=303, response_class=Response, responses={303: _REDIRECT, **documented_errors(404)}
)
@allow(PUBLIC)
async def start_oidc(
    services: Wired,
    request: Request,
    next_page: Annotated[
        str | None,
        Query(alias="next", max_length=MAX_LENGTH, description="The console's page to show then; others are ignored."),
    ] = None,
) -> Response:
    """Go to the OpenID provider to log in."""
    flow = _code_flow(services)
    url, browser = await flow.start_login(request, safe_console_path(next_page))
    response = RedirectResponse(url, 303, _NO_STORE)
    flow.keep(request, response, browser)
    return response


@router.get(
    "/auth/oidc/callback",
    status_code=303,
    response_class=Response,
    responses={303: _REDIRECT, **documented_errors(404)},
)
@allow(PUBLIC, any_query=True)
async def finish_oidc(
    *,
    services: Wired,
    request: Request,
    state: Word = "",
    code: Word = "",
    error: Word = "",
    iss: Word = "",
) -> Response:
    """Where the provider sends the browser back to: sets the cookie and leads on, or back to the login."""
    flow = _code_flow(services)
    try:
        principal, page = await flow.finish_login(
            request, AuthorizationResponse(state=state, code=code, error=error, issuer=iss)
        )
    except LoginFailed as failed:
        return RedirectResponse(f"/login?failed={failed.reason}", 303, _NO_STORE)
    response = RedirectResponse(page, 303, _NO_STORE)
    await services.login.sign_ins.open(principal, request, response)
    return response


@router.get("/auth/me", response_model=Me, responses=documented_errors())
@allow(EVERYONE, for_others=True)
async def who_am_i(caller: Caller, response: Response) -> Me:
    """Who the cookie, key or token speaks for."""
    response.headers.update(_NO_STORE)
    return Me(
        subject=caller.subject,
        tenant=caller.tenant_id,
        roles=sorted(caller.roles),
        kind="person" if caller.is_person else "service",
    )


def _code_flow(services: GatewayServices) -> AuthorizationCodeFlow:
    if services.login.code_flow is None:
        raise NotFound("no OpenID provider is set up for logins here: set FLOTILLA_OIDC_CLIENT_ID")
    return services.login.code_flow
