"""Tools of MCP servers: which there are, and which may be called. A call is a task of agent `mcp`."""

from flotilla.postgres import tenant_transaction
from gateway.auth.principal import ADMINS, EVERYONE
from gateway.governed import inbox
from gateway.guard import allow, guarded_router
from gateway.routes.documented import documented_errors
from gateway.schemas.common import ResourceId
from gateway.schemas.tools import AcceptedOutcome, AllowBody, OutcomeBody, Tool, ToolList
from gateway.services import Caller, Wired
from gateway.tools import records

router = guarded_router("tools")


@router.get("/v1/tools", response_model=ToolList, responses=documented_errors())
@allow(EVERYONE, for_others=True)
async def list_tools(services: Wired, caller: Caller) -> ToolList:
    """List the tools that MCP servers offer to the tenant, and those that it allowed."""
    async with tenant_transaction(services.pool, caller.tenant_id) as connection:
        return ToolList(tools=await records.list_tools(connection, caller.tenant_id))


@router.get("/v1/tools/{tool_name}", response_model=Tool, responses=documented_errors(404))
@allow(EVERYONE, for_others=True)
async def get_tool(services: Wired, caller: Caller, tool_name: ResourceId) -> Tool:
    """One tool, as its server describes it now and as it was allowed."""
    async with tenant_transaction(services.pool, caller.tenant_id) as connection:
        return await records.get_tool(connection, caller.tenant_id, tool_name)


@router.put("/v1/tools/{tool_name}/allowance", response_model=Tool, responses=documented_errors(404, 409, 413, 415))
@allow(ADMINS)
async def allow_tool(services: Wired, caller: Caller, tool_name: ResourceId, body: AllowBody) -> Tool:
    """Allow exactly the description that has this hash: the tool is refused once its server describes it otherwise."""
    async with tenant_transaction(services.pool, caller.tenant_id) as connection:
        return await records.allow_definition(connection, caller, tool_name, body.sha256)


@router.delete("/v1/tools/{tool_name}/allowance", status_code=204, responses=documented_errors(404))
@allow(ADMINS)
async def revoke_tool(services: Wired, caller: Caller, tool_name: ResourceId) -> None:
    """Allow the tool no more."""
    async with tenant_transaction(services.pool, caller.tenant_id) as connection:
        await records.withdraw_allowance(connection, caller, tool_name)


@router.put(
    "/v1/approvals/{approval_id}/outcome",
    response_model=AcceptedOutcome,
    responses=documented_errors(404, 409, 413, 415),
)
@allow(ADMINS, free_json=True)
async def accept_outcome(
    services: Wired, caller: Caller, approval_id: ResourceId, body: OutcomeBody
) -> AcceptedOutcome:
    """State what came of a call of an MCP tool that gave no answer, in place of running it again. The task goes on with
    that once the approval, which asks whether to run it again, is rejected."""
    async with tenant_transaction(services.pool, caller.tenant_id) as connection:
        await inbox.get_approval(connection, services.current_policy, caller.tenant_id, approval_id)
    tool = await records.accept_outcome(services.pool, caller, approval_id, body.result, body.reason)
    return AcceptedOutcome(approval_id=approval_id, tool=tool)
