"""PostgreSQL: pools, tenant transactions, migrations."""

from flotilla.postgres.pool import (
    AWAY,
    Connection,
    Pool,
    check_schema,
    open_pool,
    set_tenant,
    tenant_transaction,
)

__all__ = ["AWAY", "Connection", "Pool", "check_schema", "open_pool", "set_tenant", "tenant_transaction"]
