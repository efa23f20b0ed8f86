"""Who may read and write a session."""

from flotilla.postgres import tenant_transaction
from gateway.access import change_session_access, load_session_access
from gateway.auth.principal import EVERYONE, OPERATORS
from gateway.guard import allow, guarded_router
from gateway.routes.documented import documented_errors
from gateway.schemas.access import Access, AccessChange
from gateway.schemas.common import SessionId
from gateway.services import Caller, Wired

router = guarded_router("sessions")
_ACCESS = "/v1/sessions/{session_id}/access"


@router.get(_ACCESS, response_model=Access, responses=documented_errors(404))
@allow(EVERYONE, for_others=True)
async def get_access(services: Wired, caller: Caller, session_id: SessionId) -> Access:
    """Who owns the session, who may read and write it, and what of that the caller may do."""
    async with tenant_transaction(services.pool, caller.tenant_id) as connection:
        return await load_session_access(connection, caller, session_id)


@router.patch(_ACCESS, response_model=Access, responses=documented_errors(404, 409, 413, 415))
@allow(OPERATORS, for_others=True)
async def patch_access(services: Wired, caller: Caller, session_id: SessionId, body: AccessChange) -> Access:
    """Share the session, stop sharing it, or hand it over. Only for its owner; every change is an event of the log."""
    async with tenant_transaction(services.pool, caller.tenant_id) as connection:
        return await change_session_access(connection, caller, session_id, body)
