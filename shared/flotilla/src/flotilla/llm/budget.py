"""Token budgets per run, and per day of a person, a service and a tenant: reserved before a call, settled after it.

Two calls at a time can't both spend the rest, since each reserves under the budget's row lock. A reservation whose
maker died lapses; what the endpoint may have counted for it is lost to the budget.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, date

from flotilla.config import LlmSettings
from flotilla.contracts.errors import Refused
from flotilla.contracts.ids import Clock, utc_now
from flotilla.contracts.names import TokenPayer, token_scope
from flotilla.contracts.tasks import TokenUsage
from flotilla.llm.answer_usage import estimated_tokens
from flotilla.llm.calls import CallKey
from flotilla.llm.model import CompletionRequest
from flotilla.postgres import Connection

UNLIMITED_OUTPUT_TOKENS = 1000
"""What is reserved for an answer whose length the request leaves open."""
RESERVATION_S = 300.0

# What is used in each scope; holds their locks, taken in order, until the transaction ends.
_LOCK = """
INSERT INTO flotilla.token_budgets (tenant_id, scope) SELECT $1, s FROM unnest($2::text[]) AS s ORDER BY s
ON CONFLICT (tenant_id, scope) DO UPDATE SET used = token_budgets.used
RETURNING scope, used
"""
# What other calls on their way may still use in a scope.
_RESERVED = """
SELECT coalesce(sum(tokens), 0)::bigint FROM flotilla.token_reservations
WHERE tenant_id = $1 AND scopes @> ARRAY[$2] AND expires_at > clock_timestamp() AND (task_id, call_index) <> ($3, $4)
"""
_RESERVE = """
INSERT INTO flotilla.token_reservations (tenant_id, task_id, call_index, scopes, tokens, expires_at)
VALUES ($1, $2, $3, $4, $5, clock_timestamp() + make_interval(secs => $6))
ON CONFLICT (tenant_id, task_id, call_index)
DO UPDATE SET scopes = excluded.scopes, tokens = excluded.tokens, expires_at = excluded.expires_at
"""
_ASKED_BY = "SELECT person, service FROM flotilla.asked_by()"
_RELEASE = "DELETE FROM flotilla.token_reservations WHERE tenant_id = $1 AND task_id = $2 AND call_index = $3"
# In order, so that two calls of one run never wait for each other in a ring.
_USE = """
INSERT INTO flotilla.token_budgets (tenant_id, scope, used) SELECT $1, s, $3 FROM unnest($2::text[]) AS s ORDER BY s
ON CONFLICT (tenant_id, scope) DO UPDATE SET used = token_budgets.used + excluded.used, updated_at = clock_timestamp()
"""


class TokenBudgetSpent(Refused):
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


@dataclass(frozen=True, slots=True)
class _Scope:
    name: str
    limit: int
    refusal: str


class TokenBudget:
    """Keeps `limits`, on the caller's connection and in the caller's transaction."""

    def __init__(self, limits: TokenLimits, clock: Clock = utc_now) -> None:
        self._limits = limits
        self._clock = clock

    async def reserve(self, connection: Connection, key: CallKey, request: CompletionRequest) -> None:
        """Set aside what `request` may use.

        Raises:
            TokenBudgetSpent: it may use more than is left.
        """
        scopes = {scope.name: scope for scope in await self._scopes(connection, key)}
        if not scopes:
            return
        needed = estimate(request)
        for row in await connection.fetch(_LOCK, key.tenant_id, list(scopes)):
            scope = scopes[row["scope"]]
            held = await connection.fetchval(_RESERVED, key.tenant_id, scope.name, key.task_id, key.call_index)
            if row["used"] + held + needed > scope.limit:
                raise TokenBudgetSpent(
                    f"{row['used']} of {scope.limit} tokens are used, {held} are reserved, and this call may use "
                    f"{needed}: {scope.refusal}"
                )
        await connection.execute(
            _RESERVE, key.tenant_id, key.task_id, key.call_index, list(scopes), needed, RESERVATION_S
        )

    async def settle(self, connection: Connection, key: CallKey, usage: TokenUsage) -> None:
        """Count what the call used, in the place of what was reserved."""
        scopes = [scope.name for scope in await self._scopes(connection, key)]
        if scopes:
            await self.release(connection, key)
            await connection.execute(_USE, key.tenant_id, scopes, usage.input_tokens + usage.output_tokens)

    async def release(self, connection: Connection, key: CallKey) -> None:
        """Give back what was set aside."""
        if self._limits != TokenLimits():
            await connection.execute(_RELEASE, key.tenant_id, key.task_id, key.call_index)

    async def _scopes(self, connection: Connection, key: CallKey) -> list[_Scope]:
        scopes = self._of_the_asking(await self._asked_by(connection))
        if self._limits.per_run is not None and key.run_id is not None:
            refusal = f"run {key.run_id} can go no further (FLOTILLA_LLM_TOKENS_PER_RUN)"
            scopes.append(_Scope(f"run:{key.run_id}", self._limits.per_run, refusal))
        if self._limits.per_tenant_day is not None:
            refusal = f"tenant {key.tenant_id} can go on after midnight UTC (FLOTILLA_LLM_TOKENS_PER_TENANT_DAY)"
            scopes.append(_Scope(token_scope("tenant", self._today()), self._limits.per_tenant_day, refusal))
        return scopes

    def _of_the_asking(self, asked_by: Mapping[TokenPayer, str | None]) -> list[_Scope]:
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
                scopes.append(_Scope(token_scope(payer, self._today(), name), limit, refusal))
        return scopes

    async def _asked_by(self, connection: Connection) -> Mapping[TokenPayer, str | None]:
        if self._limits.per_person_day is None and self._limits.per_service_day is None:
            return {}
        row = await connection.fetchrow(_ASKED_BY)
        return {"person": row["person"], "service": row["service"]} if row is not None else {}

    def _today(self) -> date:
        return self._clock().astimezone(UTC).date()


def estimate(request: CompletionRequest) -> int:
    """Tokens that the call may use, rather too many than too few."""
    characters = sum(len(message.content) for message in request.messages)
    characters += sum(len(str(tool.parameters)) + len(tool.description) for tool in request.tools)
    output = request.max_tokens if request.max_tokens is not None else UNLIMITED_OUTPUT_TOKENS
    return estimated_tokens(characters) + output
