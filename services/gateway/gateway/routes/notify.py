"""Notices of runs to other systems: who is notified of those that name nobody themselves."""

from gateway.auth.principal import ADMINS
from gateway.guard import allow, guarded_router
from gateway.routes.documented import documented_errors
from gateway.runs.notices import checked_receiver, load_tenant_receiver, set_tenant_receiver
from gateway.schemas.notify import NotifyUnset, TenantNotify
from gateway.schemas.runs import NotifyBody
from gateway.services import Caller, Wired

router = guarded_router("notices")


@router.get("/v1/notify", response_model=TenantNotify, responses=documented_errors(404))
@allow(ADMINS)
async def get_receiver(services: Wired, caller: Caller) -> TenantNotify:
    """Who is notified of the tenant's runs that name nobody themselves."""
    return await load_tenant_receiver(services.pool, caller.tenant_id)


@router.put("/v1/notify", response_model=TenantNotify, responses=documented_errors(413, 415))
@allow(ADMINS)
async def set_receiver(services: Wired, caller: Caller, body: NotifyBody) -> TenantNotify:
    """Notify a receiver of all runs of the tenant that name nobody themselves, from now on."""
    await set_tenant_receiver(services.pool, caller, checked_receiver(services, body))
    return await load_tenant_receiver(services.pool, caller.tenant_id)


@router.delete("/v1/notify", response_model=NotifyUnset, responses=documented_errors())
@allow(ADMINS)
async def unset_receiver(services: Wired, caller: Caller) -> NotifyUnset:
    """Notify nobody any more; notices that are queued are delivered."""
    await set_tenant_receiver(services.pool, caller, None)
    return NotifyUnset()
