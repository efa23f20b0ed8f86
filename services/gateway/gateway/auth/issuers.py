"""Who issued somebody's keys: anyone who did may hold a copy, so that the two do not count as two people."""

from flotilla.postgres import Connection
from gateway.auth.principal import Principal

# Those who issued keys to $2, those who issued keys to them, and so on; only identities of the tenant, not the install.
_ISSUERS = """
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


async def issuers_of(connection: Connection, tenant_id: str, subject: str) -> list[str]:
    """Return everybody through whose hands a key of `subject` went, revoked keys included, in order of their names."""
    return [row["subject"] for row in await connection.fetch(_ISSUERS, tenant_id, subject)]


async def issuers_behind(connection: Connection, caller: Principal, requester: str) -> list[str]:
    """Return through whose hands the keys went by which `caller` asks as `requester`: those of the person and, where a
    service acts for them, the service and those of its keys."""
    found = set(await issuers_of(connection, caller.tenant_id, caller.subject))
    if caller.acted_by is not None:
        found |= {caller.acted_by, *await issuers_of(connection, caller.tenant_id, caller.acted_by)}
    return sorted(found - {requester})
