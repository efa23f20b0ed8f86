"""Budgets as accounts: an amount is set aside before a call and counted after it, under the locks of the accounts.

Two calls at a time can't both spend the rest, since each reserves under the account's row lock. A reservation whose
maker died lapses; what the endpoint may have counted for it is lost to the budget.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from flotilla.contracts.errors import Refused
from flotilla.contracts.names import TokenPayer
from flotilla.llm.calls import StoredCallKey
from flotilla.postgres import Connection

RESERVATION_S = 300.0

# What is used in each scope; holds their locks, taken in order, until the transaction ends.
_LOCK_BUDGETS = """
INSERT INTO flotilla.token_budgets (tenant_id, scope) SELECT $1, s FROM unnest($2::text[]) AS s ORDER BY s
ON CONFLICT (tenant_id, scope) DO UPDATE SET used = token_budgets.used
RETURNING scope, used
"""
# What other calls on their way may still use in a scope.
_SUM_RESERVATIONS = """
SELECT coalesce(sum(tokens), 0)::bigint FROM flotilla.token_reservations
WHERE tenant_id = $1 AND scopes @> ARRAY[$2] AND expires_at > clock_timestamp() AND (task_id, call_index) <> ($3, $4)
"""
_INSERT_RESERVATIONS = """
INSERT INTO flotilla.token_reservations (tenant_id, task_id, call_index, scopes, tokens, expires_at)
VALUES ($1, $2, $3, $4, $5, clock_timestamp() + make_interval(secs => $6))
ON CONFLICT (tenant_id, task_id, call_index)
DO UPDATE SET scopes = excluded.scopes, tokens = excluded.tokens, expires_at = excluded.expires_at
"""
_ASKED_BY = "SELECT person, service FROM flotilla.asked_by()"
_DELETE_RESERVATIONS = (
    "DELETE FROM flotilla.token_reservations WHERE tenant_id = $1 AND task_id = $2 AND call_index = $3"
)
# In order, so that two calls of one run never wait for each other in a ring.
_COUNT_USE_IN_BUDGETS = """
INSERT INTO flotilla.token_budgets (tenant_id, scope, used) SELECT $1, s, $3 FROM unnest($2::text[]) AS s ORDER BY s
ON CONFLICT (tenant_id, scope) DO UPDATE SET used = token_budgets.used + excluded.used, updated_at = clock_timestamp()
"""


class BudgetSpent(Refused):
    """A budget does not suffice for the call; it was not made."""


@dataclass(frozen=True, slots=True)
class BudgetAccount:
    """One budget: the name under which it is counted, its limit, and what to say where it does not suffice."""

    name: str
    limit: int
    refusal: str


OnShort = Callable[[BudgetAccount, int, int], BudgetSpent]
"""Makes the refusal of an account in which so much is used, and so much set aside by others."""


async def reserve_in_accounts(
    connection: Connection, key: StoredCallKey, accounts: Sequence[BudgetAccount], needed: int, on_short: OnShort
) -> None:
    """Reserve `needed` in each account.

    Raises:
        BudgetSpent: as `on_short` makes it; one of the accounts has less left.
    """
    by_name = {account.name: account for account in accounts}
    for row in await connection.fetch(_LOCK_BUDGETS, key.tenant_id, list(by_name)):
        account = by_name[row["scope"]]
        held = await connection.fetchval(_SUM_RESERVATIONS, key.tenant_id, account.name, key.task_id, key.call_index)
        if row["used"] + held + needed > account.limit:
            raise on_short(account, row["used"], held)
    await connection.execute(
        _INSERT_RESERVATIONS, key.tenant_id, key.task_id, key.call_index, list(by_name), needed, RESERVATION_S
    )


async def settle_in_accounts(
    connection: Connection, key: StoredCallKey, accounts: Sequence[BudgetAccount], amount: int
) -> None:
    """Count `amount` in each account, in the place of what was set aside."""
    await release_in_accounts(connection, key)
    await connection.execute(_COUNT_USE_IN_BUDGETS, key.tenant_id, [account.name for account in accounts], amount)


async def release_in_accounts(connection: Connection, key: StoredCallKey) -> None:
    """Release what was set aside."""
    await connection.execute(_DELETE_RESERVATIONS, key.tenant_id, key.task_id, key.call_index)


async def load_requester(connection: Connection) -> Mapping[TokenPayer, str | None]:
    """The person, and the service, who asked for what the transaction's task belongs to."""
    row = await connection.fetchrow(_ASKED_BY)
    return {"person": row["person"], "service": row["service"]} if row is not None else {}
