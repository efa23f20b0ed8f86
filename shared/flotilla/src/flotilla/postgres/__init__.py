"""PostgreSQL: pools, tenant transactions, migrations."""

from flotilla.postgres.pool import (
    AWAY,
    IDLE_IN_TRANSACTION_S,
    UNSTORABLE,
    Connection,
    HeldTask,
    Pool,
    check_schema,
    holding,
    holds_task,
    open_pool,
    open_service_pool,
    set_tenant,
    tenant_snapshot,
    tenant_transaction,
)

__all__ = [
    "AWAY",
    "IDLE_IN_TRANSACTION_S",
    "UNSTORABLE",
    "Connection",
    "HeldTask",
    "Pool",
    "check_schema",
    "holding",
    "holds_task",
    "open_pool",
    "open_service_pool",
    "set_tenant",
    "tenant_snapshot",
    "tenant_transaction",
]
