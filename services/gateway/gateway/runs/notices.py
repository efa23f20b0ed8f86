"""Who is notified of runs, and what they got."""

from dataclasses import asdict

from flotilla.config.hosts import parse_allowed_url
from flotilla.contracts.envelope import from_json, to_json
from flotilla.contracts.errors import NotFound
from flotilla.contracts.notices import Notify
from flotilla.postgres import Pool, tenant_transaction
from gateway.auth.principal import Principal
from gateway.runs.records import get_run
from gateway.schemas.notify import TenantNotify
from gateway.schemas.runs import Notice, NotifyBody
from gateway.services import GatewayServices

SETTING = "FLOTILLA_NOTIFY_HOSTS"
_OF_RUN = """
SELECT number, kind, delivery_id, url, status, attempts, last_error, created_at, delivered_at
FROM flotilla.run_notices WHERE tenant_id = $1 AND run_id = $2 ORDER BY number
"""
_SELECT_TENANT_NOTIFY = "SELECT notify, set_by, set_at FROM flotilla.tenant_notify WHERE tenant_id = $1"
_SET_TENANT_NOTIFY = """
INSERT INTO flotilla.tenant_notify (tenant_id, notify, set_by) VALUES ($1, $2::jsonb, $3)
ON CONFLICT (tenant_id) DO UPDATE SET notify = excluded.notify, set_by = excluded.set_by, set_at = now()
"""
_DELETE_TENANT_NOTIFY = "DELETE FROM flotilla.tenant_notify WHERE tenant_id = $1"


def checked_receiver(services: GatewayServices, notify: NotifyBody | None) -> Notify | None:
    """Return the receiver that a request names.

    Raises:
        Invalid, Forbidden: its URL is not one, or not on a host that may get notices.
    """
    if notify is None:
        return None
    parse_allowed_url(notify.url, services.notify_hosts, SETTING)
    return Notify(url=notify.url, secret_ref=notify.secret_ref)


async def list_notices(pool: Pool, tenant_id: str, run_id: str) -> list[Notice]:
    """Return the notices of a run, in order.

    Raises:
        NotFound: the tenant has no such run.
    """
    await get_run(pool, tenant_id, run_id)
    async with tenant_transaction(pool, tenant_id) as connection:
        rows = await connection.fetch(_OF_RUN, tenant_id, run_id)
    return [Notice.model_validate(dict(row)) for row in rows]


async def load_tenant_receiver(pool: Pool, tenant_id: str) -> TenantNotify:
    """Return who is notified of the tenant's runs that name nobody themselves.

    Raises:
        NotFound: nobody is.
    """
    async with tenant_transaction(pool, tenant_id) as connection:
        row = await connection.fetchrow(_SELECT_TENANT_NOTIFY, tenant_id)
    if row is None:
        raise NotFound("nobody is notified of this tenant's runs: PUT /v1/notify names a receiver")
    return TenantNotify(**asdict(from_json(row["notify"], Notify)), set_by=row["set_by"], set_at=row["set_at"])


async def set_tenant_receiver(pool: Pool, caller: Principal, notify: Notify | None) -> None:
    """Tell `notify` of the tenant's runs from now on; None tells nobody."""
    async with tenant_transaction(pool, caller.tenant_id) as connection:
        if notify is None:
            await connection.execute(_DELETE_TENANT_NOTIFY, caller.tenant_id)
        else:
            await connection.execute(_SET_TENANT_NOTIFY, caller.tenant_id, to_json(notify).decode(), caller.subject)
