"""Budgets in money: reserved before a call at the most that it may cost, settled after it at what it cost.

What waits is a call for which enough is left unless others, on their way, cost as much as they may: once they are
settled it goes on. So a budget is used up, and never exceeded.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, date
from decimal import Decimal

from flotilla.config import LlmSettings
from flotilla.contracts.errors import ConfigurationError
from flotilla.contracts.ids import Clock, utc_now
from flotilla.contracts.names import TokenPayer
from flotilla.contracts.tasks import TokenUsage
from flotilla.llm.accounts import (
    BudgetAccount,
    BudgetSpent,
    load_requester,
    release_in_accounts,
    reserve_in_accounts,
    settle_in_accounts,
)
from flotilla.llm.budget import estimate_input_tokens
from flotilla.llm.calls import StoredCallKey
from flotilla.llm.model import CompletionRequest
from flotilla.llm.prices import NANOS, PriceTable, TokenPrice, read_prices
from flotilla.postgres import Connection
from flotilla.telemetry.metrics import LLM_SPEND

DEFAULT_OUTPUT_TOKENS = 4096
"""The longest answer where a budget is kept and nobody named one: a call must have a most that it may cost."""
_INSERT_LLM_SPEND = """
INSERT INTO flotilla.llm_spend (tenant_id, task_id, call_index, request_hash, run_id, session_id, agent, model, person,
    service, input_tokens, cached_input_tokens, output_tokens, nanos, currency, answered)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16)
"""


class MoneyBudgetSpent(BudgetSpent):
    """A budget in money does not suffice for the call; it was not made."""

    def __init__(self, reason: str, budget: str) -> None:
        """`budget` is its kind: `run`, `agent`, `person`, `day`."""
        super().__init__(reason)
        self.budget = budget


class MoneyHeld(MoneyBudgetSpent):
    """It would suffice if the calls on their way cost less than they may: worth waiting for."""


class PriceUnknown(BudgetSpent):
    """A budget is to be kept, and nobody knows what the call costs; it was not made."""


@dataclass(frozen=True, slots=True)
class ChargedTokens:
    """Tokens that an endpoint counts, of an answer or of a call that gave none."""

    model: str
    usage: TokenUsage
    cached_input_tokens: int = 0
    answered: bool = False


def sum_charges(charges: Sequence[ChargedTokens]) -> TokenUsage:
    """The tokens of all of them."""
    return TokenUsage(
        input_tokens=sum(charge.usage.input_tokens for charge in charges),
        output_tokens=sum(charge.usage.output_tokens for charge in charges),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class MoneyLimits:
    """In units of the price table's currency; None means no limit. A day is one in UTC."""

    per_run: Decimal | None = None
    per_agent_day: Decimal | None = None
    per_person_day: Decimal | None = None
    per_tenant_day: Decimal | None = None

    @staticmethod
    def of(settings: LlmSettings) -> "MoneyLimits":
        """The limits that the settings ask for."""
        return MoneyLimits(
            per_run=settings.llm_budget_per_run,
            per_agent_day=settings.llm_budget_per_agent_day,
            per_person_day=settings.llm_budget_per_person_day,
            per_tenant_day=settings.llm_budget_per_tenant_day,
        )


class MoneyBudget:
    """Keeps `limits` at the prices of `table`, on the caller's connection and in the caller's transaction."""

    def __init__(
        self, table: PriceTable, limits: MoneyLimits, longest: int | None = None, clock: Clock = utc_now
    ) -> None:
        self._table = table
        self._limits = limits
        self._longest = longest or DEFAULT_OUTPUT_TOKENS
        self._clock = clock

    @property
    def has_limit(self) -> bool:
        """Whether there is a budget to keep."""
        return self._limits != MoneyLimits()

    def with_token_limit(self, request: CompletionRequest) -> CompletionRequest:
        """`request` with a longest answer, if a budget is to be kept."""
        if not self.has_limit or request.max_tokens is not None:
            return request
        body = None if request.body is None else {**request.body, "max_tokens": self._longest}
        return replace(request, max_tokens=self._longest, body=body)

    async def reserve_for_call(
        self, connection: Connection, key: StoredCallKey, request: CompletionRequest, models: Sequence[str]
    ) -> None:
        """Set aside the most that `request` may cost at the dearest of `models`.

        Raises:
            MoneyBudgetSpent: it may cost more than is left; MoneyHeld: only because of calls on their way.
            PriceUnknown: one of the models has none.
        """
        if not self.has_limit:
            return
        needed = self._most(self.with_token_limit(request), models)
        asking = await load_requester(connection) if self._limits.per_person_day is not None else {}
        accounts = self._accounts(key, asking)
        await reserve_in_accounts(
            connection, _money_key(key), accounts, needed, lambda *found: self._short(needed, *found)
        )

    async def settle_call(
        self,
        connection: Connection,
        key: StoredCallKey,
        reserved: StoredCallKey,
        request_hash: bytes,
        charges: Sequence[ChargedTokens],
    ) -> None:
        """Count what the call cost, in the place of what was set aside as `reserved`, and enter it in the ledger."""
        asking = await load_requester(connection)
        nanos = sum([await self._enter(connection, key, request_hash, charge, asking) for charge in charges])
        if self.has_limit:
            accounts = self._accounts(key, asking)
            await settle_in_accounts(connection, _money_key(reserved), accounts, nanos)

    async def _enter(
        self,
        connection: Connection,
        key: StoredCallKey,
        request_hash: bytes,
        charge: ChargedTokens,
        asking: Mapping[TokenPayer, str | None],
    ) -> int:
        price = self._table.price_on_day(charge.model, self._today())
        nanos = price.cost_in_nanos(charge.usage, charge.cached_input_tokens) if price else 0
        await connection.execute(
            _INSERT_LLM_SPEND,
            key.tenant_id,
            key.task_id,
            key.call_index,
            request_hash,
            key.run_id,
            key.session_id,
            key.agent,
            charge.model,
            asking.get("person"),
            asking.get("service"),
            charge.usage.input_tokens,
            charge.cached_input_tokens,
            charge.usage.output_tokens,
            nanos,
            self._table.currency,
            charge.answered,
        )
        LLM_SPEND.labels(charge.model, key.agent, self._table.currency).inc(nanos / NANOS)
        return nanos

    async def release_reservation(self, connection: Connection, key: StoredCallKey) -> None:
        """Give back what was set aside."""
        if self.has_limit:
            await release_in_accounts(connection, _money_key(key))

    def _most(self, request: CompletionRequest, models: Sequence[str]) -> int:
        sent, written = estimate_input_tokens(request), request.max_tokens or self._longest
        prices = [self._price(model) for model in models]
        return max(
            TokenPrice(
                valid_from=price.valid_from,
                input=price.highest_input_price,
                cached_input=price.highest_input_price,
                output=price.output,
            ).cost_in_nanos(TokenUsage(input_tokens=sent, output_tokens=written))
            for price in prices
        )

    def _price(self, model: str) -> TokenPrice:
        price = self._table.price_on_day(model, self._today())
        if price is None:
            raise PriceUnknown(
                f"model {model} has no price today, and a budget is to be kept: add one to FLOTILLA_LLM_PRICES"
            )
        return price

    def _short(self, needed: int, account: BudgetAccount, used: int, held: int) -> MoneyBudgetSpent:
        kind = MoneyHeld if used + needed <= account.limit else MoneyBudgetSpent
        return kind(
            f"{self._shown(used)} of {self._shown(account.limit)} are spent, {self._shown(held)} are reserved, and "
            f"this call may cost {self._shown(needed)}: {account.refusal}",
            account.name.split(":")[1],
        )

    def _shown(self, nanos: int) -> str:
        amount = (Decimal(nanos) / NANOS).normalize()
        return f"{self._table.currency} {amount:f}"

    def _accounts(self, key: StoredCallKey, asking: Mapping[TokenPayer, str | None]) -> list[BudgetAccount]:
        today, person = self._today().isoformat(), asking.get("person")
        after = "can go on after midnight UTC"
        limits: Mapping[str, tuple[Decimal | None, str]] = {
            f"run:{key.run_id}": (
                self._limits.per_run if key.run_id else None,
                f"run {key.run_id} can go no further (FLOTILLA_LLM_BUDGET_PER_RUN)",
            ),
            f"agent:{today}:{key.agent}": (
                self._limits.per_agent_day,
                f"agent {key.agent} {after} (FLOTILLA_LLM_BUDGET_PER_AGENT_DAY)",
            ),
            f"person:{today}:{person}": (
                self._limits.per_person_day if person else None,
                f"the person who asked {after} (FLOTILLA_LLM_BUDGET_PER_PERSON_DAY)",
            ),
            f"day:{today}": (
                self._limits.per_tenant_day,
                f"tenant {key.tenant_id} {after} (FLOTILLA_LLM_BUDGET_PER_TENANT_DAY)",
            ),
        }
        return [
            BudgetAccount(f"money:{name}", int(limit * NANOS), refusal)
            for name, (limit, refusal) in limits.items()
            if limit is not None
        ]

    def _today(self) -> date:
        return self._clock().astimezone(UTC).date()


def create_money_budget(settings: LlmSettings) -> MoneyBudget | None:
    """What the settings ask for; None without prices.

    Raises:
        ConfigurationError: there are budgets and no prices, or the prices can't be read.
    """
    limits = MoneyLimits.of(settings)
    if settings.llm_prices is None:
        if limits != MoneyLimits():
            raise ConfigurationError("FLOTILLA_LLM_BUDGET_* needs FLOTILLA_LLM_PRICES, a file of prices")
        return None
    return MoneyBudget(read_prices(settings.llm_prices), limits, settings.llm_max_output_tokens)


def _money_key(key: StoredCallKey) -> StoredCallKey:
    """Reservations of tokens and of money are in one table: the latter have negative numbers."""
    return replace(key, call_index=-1 - key.call_index)
