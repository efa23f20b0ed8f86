"""Token budgets per run, and per day of a person, a service and a tenant: reserved before a call, settled after it."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, date
from typing import Any

from flotilla.config import LlmSettings
from flotilla.contracts.envelope import to_json
from flotilla.contracts.ids import Clock, utc_now
from flotilla.contracts.json_types import JsonObject
from flotilla.contracts.names import TokenPayer, token_budget_name
from flotilla.contracts.tasks import TokenUsage
from flotilla.llm.accounts import (
    BudgetAccount,
    BudgetSpent,
    load_requester,
    release_in_accounts,
    reserve_in_accounts,
    settle_in_accounts,
)
from flotilla.llm.answer_usage import estimated_tokens
from flotilla.llm.calls import StoredCallKey
from flotilla.llm.chat_request import LONGEST_ANSWER
from flotilla.llm.model import CompletionRequest
from flotilla.postgres import Connection

IMAGE_TOKENS = 1500
"""About what endpoints count for a large image."""
UNLIMITED_OUTPUT_TOKENS = 1000
"""What is reserved for an answer whose length the request leaves open."""


_COUNTED = frozenset(("messages", "tools", *LONGEST_ANSWER))
"""Members of a body that are counted one by one, or hold no text."""


class TokenBudgetSpent(BudgetSpent):
    """The run's or the tenant's tokens do not suffice for the call; it was not made."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenLimits:
    """Input and output tokens together; None means no limit."""

    per_run: int | None = None
    per_tenant_day: int | None = None
    """A day in UTC."""
    per_person_day: int | None = None
    """Of the person who asked for the run or task, directly or through a service."""
    per_service_day: int | None = None

    @staticmethod
    def of(settings: LlmSettings) -> "TokenLimits":
        """The limits that the settings ask for."""
        return TokenLimits(
            per_run=settings.llm_tokens_per_run,
            per_tenant_day=settings.llm_tokens_per_tenant_day,
            per_person_day=settings.llm_tokens_per_person_day,
            per_service_day=settings.llm_tokens_per_service_day,
        )


class TokenBudget:
    """Keeps `limits`, on the caller's connection and in the caller's transaction."""

    def __init__(self, limits: TokenLimits, clock: Clock = utc_now) -> None:
        self._limits = limits
        self._clock = clock

    async def reserve_for_call(self, connection: Connection, key: StoredCallKey, request: CompletionRequest) -> None:
        """Set aside what `request` may use.

        Raises:
            TokenBudgetSpent: it may use more than is left.
        """
        accounts = await self._accounts(connection, key)
        if not accounts:
            return
        needed = estimate_call_tokens(request)

        def short(account: BudgetAccount, used: int, held: int) -> TokenBudgetSpent:
            return TokenBudgetSpent(
                f"{used} of {account.limit} tokens are used, {held} are reserved, and this call may use "
                f"{needed}: {account.refusal}"
            )

        await reserve_in_accounts(connection, key, accounts, needed, short)

    async def settle_call(self, connection: Connection, key: StoredCallKey, usage: TokenUsage) -> None:
        """Count what the call used, in the place of what was reserved."""
        accounts = await self._accounts(connection, key)
        if accounts:
            await settle_in_accounts(connection, key, accounts, usage.input_tokens + usage.output_tokens)

    async def release_reservation(self, connection: Connection, key: StoredCallKey) -> None:
        """Give back what was set aside."""
        if self._limits != TokenLimits():
            await release_in_accounts(connection, key)

    async def _accounts(self, connection: Connection, key: StoredCallKey) -> list[BudgetAccount]:
        scopes = self._of_the_asking(await self._asking(connection))
        if self._limits.per_run is not None and key.run_id is not None:
            refusal = f"run {key.run_id} can go no further (FLOTILLA_LLM_TOKENS_PER_RUN)"
            scopes.append(BudgetAccount(f"run:{key.run_id}", self._limits.per_run, refusal))
        if self._limits.per_tenant_day is not None:
            refusal = f"tenant {key.tenant_id} can go on after midnight UTC (FLOTILLA_LLM_TOKENS_PER_TENANT_DAY)"
            scopes.append(
                BudgetAccount(token_budget_name("tenant", self._today()), self._limits.per_tenant_day, refusal)
            )
        return scopes

    def _of_the_asking(self, asked_by: Mapping[TokenPayer, str | None]) -> list[BudgetAccount]:
        """The budgets of the person, and of the service, who asked for what the call belongs to."""
        limits: Mapping[TokenPayer, int | None] = {
            "person": self._limits.per_person_day,
            "service": self._limits.per_service_day,
        }
        scopes = []
        for payer, name in asked_by.items():
            limit = limits[payer]
            if name is not None and limit is not None:
                setting = f"FLOTILLA_LLM_TOKENS_PER_{payer.upper()}_DAY"
                refusal = f"the {payer} who asked can go on after midnight UTC ({setting})"
                scopes.append(BudgetAccount(token_budget_name(payer, self._today(), name), limit, refusal))
        return scopes

    async def _asking(self, connection: Connection) -> Mapping[TokenPayer, str | None]:
        if self._limits.per_person_day is None and self._limits.per_service_day is None:
            return {}
        return await load_requester(connection)

    def _today(self) -> date:
        return self._clock().astimezone(UTC).date()


def estimate_call_tokens(request: CompletionRequest) -> int:
    """Tokens that the call may use, rather too many than too few."""
    output = request.max_tokens if request.max_tokens is not None else UNLIMITED_OUTPUT_TOKENS
    return estimate_input_tokens(request) + output


def estimate_input_tokens(request: CompletionRequest) -> int:
    """Tokens that are sent, rather too many than too few."""
    characters = sum(len(message.content) for message in request.messages)
    characters += sum(len(call.arguments) for message in request.messages for call in message.tool_calls)
    characters += sum(len(str(tool.parameters)) + len(tool.description) for tool in request.tools)
    characters += _others(request.body)
    images = sum(len(message.images) for message in request.messages) + _images(request.body)
    return estimated_tokens(characters) + IMAGE_TOKENS * images


def _others(body: JsonObject | None) -> int:
    """Characters of what a body has besides messages and tools: schemas of answers, members of a dialect."""
    members = {name: value for name, value in (body or {}).items() if name not in _COUNTED}
    return len(to_json(members)) if members else 0


def _images(body: JsonObject | None) -> int:
    messages: Any = body["messages"] if body else ()
    contents = [message.get("content") for message in messages]
    parts = [part for content in contents if isinstance(content, list) for part in content if isinstance(part, dict)]
    return sum(part.get("type") == "image_url" for part in parts)
