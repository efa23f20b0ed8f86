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
    retry_when_away,
    set_tenant,
    tenant_snapshot,
    tenant_transaction,
)
from flotilla.postgres.viewer import ITSELF, Viewer, act_as, acting_as, current_viewer

__all__ = [
    "AWAY",
    "IDLE_IN_TRANSACTION_S",
    "ITSELF",
    "UNSTORABLE",
    "Connection",
    "HeldTask",
    "Pool",
    "Viewer",
    "act_as",
    "acting_as",
    "check_schema",
    "current_viewer",
    "holding",
    "holds_task",
    "open_pool",
    "open_service_pool",
    "retry_when_away",
    "set_tenant",
    "tenant_snapshot",
    "tenant_transaction",
]
