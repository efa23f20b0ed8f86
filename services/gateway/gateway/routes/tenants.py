"""Tenants: created, listed, suspended, resumed and deleted by the operators of the fleet."""

from fastapi import Response

from flotilla.postgres import keyring_of, tenant_transaction
from gateway.auth.principal import ADMINS, OPERATORS
from gateway.guard import allow, guarded_router
from gateway.paging import DEFAULT_LIMIT, Cursor, Limit, make_cursor, read_cursor
from gateway.routes.documented import documented_errors
from gateway.schemas.tenants import DeletionBody, NewTenant, Suspension, TenantBody, TenantDetails, TenantId, TenantList
from gateway.services import Caller, Wired
from gateway.tenants import records

router = guarded_router("tenants")
_TENANTS = "/v1/tenants"
_TENANT = f"{_TENANTS}/{{tenant_id}}"
_NOT_YOURS = "only the operator's tenant sees and governs tenants"


@router.get(_TENANTS, response_model=TenantList, responses=documented_errors())
@allow(OPERATORS)
async def list_tenants(
    services: Wired, caller: Caller, limit: Limit = DEFAULT_LIMIT, cursor: Cursor = None
) -> TenantList:
    """List the tenants of the fleet, by name."""
    services.check_operates_fleet(caller, _NOT_YOURS)
    [after] = read_cursor(cursor, 1) or [""]
    async with tenant_transaction(services.pool, caller.tenant_id) as connection:
        tenants = await records.list_tenants(connection, after, limit)
    return TenantList(
        tenants=tenants, next_cursor=make_cursor(tenants[-1].tenant_id) if len(tenants) == limit else None
    )


@router.post(_TENANTS, status_code=201, response_model=NewTenant, responses=documented_errors(409, 413, 415))
@allow(ADMINS)
async def create_tenant(services: Wired, caller: Caller, body: TenantBody, response: Response) -> NewTenant:
    """Create a tenant, with a key for its administrator. The key's secret is in this answer and nowhere else."""
    services.check_operates_fleet(caller, _NOT_YOURS)
    response.headers["Cache-Control"] = "no-store"
    async with tenant_transaction(services.pool, caller.tenant_id) as connection:
        return await records.create_tenant(connection, caller, body)


@router.get(_TENANT, response_model=TenantDetails, responses=documented_errors(404))
@allow(OPERATORS)
async def get_tenant(services: Wired, caller: Caller, tenant_id: TenantId) -> TenantDetails:
    """Show a tenant, and how much of it there is."""
    services.check_operates_fleet(caller, _NOT_YOURS)
    async with tenant_transaction(services.pool, caller.tenant_id) as connection:
        return await records.get_tenant(connection, tenant_id)


@router.post(f"{_TENANT}/suspend", response_model=TenantDetails, responses=documented_errors(404, 409, 413, 415))
@allow(ADMINS)
async def suspend_tenant(services: Wired, caller: Caller, tenant_id: TenantId, body: Suspension) -> TenantDetails:
    """Refuse a tenant's requests, here at once and at other replicas within a second; its work waits."""
    services.check_operates_fleet(caller, _NOT_YOURS)
    async with tenant_transaction(services.pool, caller.tenant_id) as connection:
        tenant = await records.suspend_tenant(connection, caller, tenant_id, body)
    services.tenants.forget()
    return tenant


@router.post(f"{_TENANT}/resume", response_model=TenantDetails, responses=documented_errors(404, 409, 413, 415))
@allow(ADMINS)
async def resume_tenant(services: Wired, caller: Caller, tenant_id: TenantId) -> TenantDetails:
    """Serve a suspended tenant again; what waited goes on."""
    services.check_operates_fleet(caller, _NOT_YOURS)
    async with tenant_transaction(services.pool, caller.tenant_id) as connection:
        tenant = await records.resume_tenant(connection, caller, tenant_id)
    services.tenants.forget()
    return tenant


@router.post(
    f"{_TENANT}/deletion",
    status_code=202,
    response_model=TenantDetails,
    responses=documented_errors(404, 409, 413, 415),
)
@allow(ADMINS)
async def ask_deletion(services: Wired, caller: Caller, tenant_id: TenantId, body: DeletionBody) -> TenantDetails:
    """Ask for the deletion of a suspended tenant. A second person has to confirm it."""
    services.check_operates_fleet(caller, _NOT_YOURS)
    async with tenant_transaction(services.pool, caller.tenant_id) as connection:
        return await records.ask_deletion(connection, caller, tenant_id, body.reason)


@router.post(
    f"{_TENANT}/deletion/confirm",
    status_code=202,
    response_model=TenantDetails,
    responses=documented_errors(404, 409, 413, 415),
)
@allow(ADMINS)
async def confirm_deletion(services: Wired, caller: Caller, tenant_id: TenantId) -> TenantDetails:
    """Confirm, as a second person: the tenant's keys are destroyed at once and for good. Its rows then go."""
    services.check_operates_fleet(caller, _NOT_YOURS)
    async with tenant_transaction(services.pool, caller.tenant_id) as connection:
        tenant = await records.confirm_deletion(connection, caller, tenant_id)
        keyring = keyring_of(connection)
    if keyring is not None:
        keyring.forget()  # the other replicas do within a minute
    return tenant
