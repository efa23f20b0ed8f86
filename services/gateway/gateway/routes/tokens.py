"""Browser tokens: for web pages that follow runs and start them without a key."""

import secrets
from datetime import timedelta

from fastapi import Response

from flotilla.contracts.errors import Invalid
from gateway.auth.browser_tokens import create_browser_token
from gateway.auth.principal import EVERYONE, BrowserTokenGrant
from gateway.guard import allow, guarded_router
from gateway.routes.documented import documented_errors
from gateway.schemas.tokens import BrowserToken, TokenBody
from gateway.services import Caller, Wired

router = guarded_router("tokens")


@router.post("/v1/tokens", status_code=201, response_model=BrowserToken, responses=documented_errors(404, 413, 415))
@allow(EVERYONE, for_others=True)
async def create_token(services: Wired, caller: Caller, body: TokenBody, response: Response) -> BrowserToken:
    """Make a token for a web page: it lasts minutes, reaches the sessions named here as the caller does, and nothing
    else; it ends with the caller's key. Its secret is in this answer and nowhere else."""
    if body.expires_in_s > services.browser_token_max_s:
        raise Invalid(f"expires_in_s: a browser token lasts {services.browser_token_max_s} s at most")
    grant = BrowserTokenGrant(
        token_id=f"t-{secrets.token_hex(6)}",
        sessions=frozenset(body.sessions),
        scopes=frozenset({"read", *body.scopes}),
        workflows=frozenset(body.workflows),
    )
    token, expires_at = await create_browser_token(services.pool, caller, grant, timedelta(seconds=body.expires_in_s))
    response.headers["Cache-Control"] = "no-store"
    return BrowserToken(
        token=token,
        token_id=grant.token_id,
        user_id=caller.subject,
        sessions=sorted(grant.sessions),
        scopes=sorted(grant.scopes),
        workflows=sorted(grant.workflows),
        expires_at=expires_at,
    )
