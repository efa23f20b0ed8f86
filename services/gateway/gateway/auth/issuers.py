"""Who issued somebody's keys: anyone who did may hold a copy, so that the two do not count as two people."""

from collections.abc import Iterable

from flotilla.contracts.errors import Forbidden
from flotilla.contracts.tasks import root_task_id
from flotilla.postgres import Connection, Pool, acting_as, tenant_transaction
from flotilla.postgres.viewer import ITSELF
from gateway.auth.principal import Principal

# Those who issued keys to $2, those who issued keys to them, and so on; only identities of the tenant, not the install.
_SELECT_ISSUERS_API_KEYS = """
WITH RECURSIVE issuers (subject) AS (
    SELECT k.created_by FROM flotilla.api_keys AS k WHERE k.tenant_id = $1 AND k.subject = $2
    UNION
    SELECT k.created_by FROM flotilla.api_keys AS k JOIN issuers AS i ON i.subject = k.subject WHERE k.tenant_id = $1
)
SELECT i.subject FROM issuers AS i WHERE i.subject <> $2 AND (
    EXISTS (SELECT FROM flotilla.people AS p WHERE p.tenant_id = $1 AND p.subject = i.subject)
    OR EXISTS (SELECT FROM flotilla.api_keys AS k WHERE k.tenant_id = $1 AND k.subject = i.subject))
ORDER BY i.subject
"""
_SELECT_ASKED_APPROVALS = """
SELECT requested_by, on_behalf_of, run_id, task_id FROM flotilla.approvals WHERE tenant_id = $1 AND approval_id = $2
"""
# The services that asked on behalf of a person for the run or task in which the action was asked for.
_SELECT_SERVICES_RUNS = """
SELECT acted_by FROM flotilla.runs WHERE tenant_id = $1 AND run_id = $2 AND acted_by IS NOT NULL
UNION SELECT acted_by FROM flotilla.pipelines WHERE tenant_id = $1 AND task_id = $3 AND acted_by IS NOT NULL
"""


async def key_issuers_of_subject(connection: Connection, tenant_id: str, subject: str) -> list[str]:
    """Return everybody through whose hands a key of `subject` went, revoked keys included, in order of their names."""
    return [row["subject"] for row in await connection.fetch(_SELECT_ISSUERS_API_KEYS, tenant_id, subject)]


async def check_are_two_people(connection: Connection, caller: Principal, asked_by: str, what: str) -> None:
    """Let `caller` confirm `what`, which `asked_by` of the same tenant asked for.

    Raises:
        Forbidden: the caller is a service, asked for it, or one of the two issued a key of the other.
    """
    if not caller.is_person:
        raise Forbidden(f"{caller.subject} is a service: a second person has to confirm {what}")
    if caller.subject == asked_by:
        raise Forbidden(f"{caller.subject} asked for it: a second person has to confirm {what}")
    await check_different_people(connection, caller, [asked_by], what)


async def check_different_people(
    connection: Connection, caller: Principal, counted: Iterable[str], request: str
) -> None:
    """Check that `caller`, who confirms `request`, is none of those whose word counts already by another name.

    Raises:
        Forbidden: the caller issued a key of one of them, or the other way round.
    """
    for other in {*counted} - {caller.subject}:
        for issuer, subject in ((caller.subject, other), (other, caller.subject)):
            if issuer in await key_issuers_of_subject(connection, caller.tenant_id, subject):
                raise Forbidden(
                    f"{issuer} issued a key of {subject}, so the two do not count as two people: "
                    f"another admin has to confirm {request}"
                )


async def key_issuers_of_requester(connection: Connection, caller: Principal, requester: str) -> list[str]:
    """Return through whose hands the keys went by which `caller` asks as `requester`: those of the person and, where a
    service acts for them, the service and those of its keys."""
    found = set(await key_issuers_of_subject(connection, caller.tenant_id, caller.subject))
    if caller.acted_by is not None:
        found |= {caller.acted_by, *await key_issuers_of_subject(connection, caller.tenant_id, caller.acted_by)}
    return sorted(found - {requester})


async def key_issuers_of_approval(pool: Pool, tenant_id: str, approval_id: str) -> list[str]:
    """Return through whose hands the keys went by which an action was asked for, also where the caller may not see
    what it belongs to."""
    with acting_as(ITSELF):
        async with tenant_transaction(pool, tenant_id) as connection:
            row = await connection.fetchrow(_SELECT_ASKED_APPROVALS, tenant_id, approval_id)
            if row is None:
                return []
            task_id = root_task_id(row["task_id"] or "")
            services = await connection.fetch(_SELECT_SERVICES_RUNS, tenant_id, row["run_id"], task_id)
            found = {service["acted_by"] for service in services}
            for asked in {row["requested_by"], row["on_behalf_of"], *found} - {None, ""}:
                found |= set(await key_issuers_of_subject(connection, tenant_id, asked))
    return sorted(found)
