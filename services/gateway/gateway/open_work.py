"""What may be under way at once, and used in a day: by one person, by one service, by a tenant.

The check holds locks until the caller's transaction ends, so that of many requests at once no more than the limit pass.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, time, timedelta

from flotilla.contracts.ids import Clock, utc_now
from flotilla.contracts.names import TokenPayer, token_budget_name
from flotilla.postgres import Connection
from flotilla.postgres.open_work import count_open_work
from gateway.auth.principal import Principal
from gateway.problems import TooMany
from gateway.settings import Settings

RETRY_S = 5.0
"""When to come back where open work is in the way: nobody knows when it ends."""
_SELECT_USED_BUDGETS = "SELECT used FROM flotilla.token_budgets WHERE tenant_id = $1 AND scope = $2"


@dataclass(frozen=True, slots=True)
class _Payer:
    """One of those whose limits count for a request."""

    kind: TokenPayer
    name: str
    shown: str
    open_runs: int | None
    day_tokens: int | None


class OpenWorkLimits:
    """Keeps the limits of `settings`."""

    def __init__(self, settings: Settings, clock: Clock = utc_now) -> None:
        self._settings = settings
        self._clock = clock

    async def check_may_start(self, connection: Connection, caller: Principal) -> None:
        """Return if the caller may start one more run or task.

        Raises:
            TooMany: as many are open as may be, or the day's tokens are used up.
        """
        payers = list(self._payers(caller))
        for payer in payers:
            await self._check_tokens(connection, caller.tenant_id, payer)
        for payer in payers:
            await self._check_open(connection, caller.tenant_id, payer)

    def _payers(self, caller: Principal) -> Iterator[_Payer]:
        """Person, service, tenant: the order in which everybody takes the locks."""
        has, person, service = self._settings, caller.limited_person, caller.limited_service
        if person is not None:
            yield _Payer("person", person, caller.subject, has.open_runs_per_person, has.llm_tokens_per_person_day)
        if service is not None:
            shown = f"service {service}"
            yield _Payer("service", service, shown, has.open_runs_per_service, has.llm_tokens_per_service_day)
        shown = f"tenant {caller.tenant_id}"
        yield _Payer("tenant", "", shown, has.open_runs_per_tenant, has.llm_tokens_per_tenant_day)

    async def _check_open(self, connection: Connection, tenant_id: str, payer: _Payer) -> None:
        if payer.open_runs is None:
            return
        count = await count_open_work(connection, tenant_id, payer.kind, payer.name)
        if count >= payer.open_runs:
            detail = f"{payer.shown} has {count} open runs and tasks, {payer.open_runs} are allowed"
            limit = f"FLOTILLA_OPEN_RUNS_PER_{payer.kind.upper()}"
            raise TooMany(f"{detail}: wait for one to end, or cancel one ({limit})", RETRY_S, limit=limit)

    async def _check_tokens(self, connection: Connection, tenant_id: str, payer: _Payer) -> None:
        if payer.day_tokens is None:
            return
        now = self._clock().astimezone(UTC)
        used = await connection.fetchval(
            _SELECT_USED_BUDGETS, tenant_id, token_budget_name(payer.kind, now.date(), payer.name)
        )
        if used is not None and used >= payer.day_tokens:
            midnight = datetime.combine(now.date() + timedelta(days=1), time(), UTC)
            limit = f"FLOTILLA_LLM_TOKENS_PER_{payer.kind.upper()}_DAY"
            detail = (
                f"{payer.shown} has used {used} of {payer.day_tokens} tokens today, and can go on after midnight UTC"
            )
            raise TooMany(f"{detail} ({limit})", (midnight - now).total_seconds(), limit=limit)
