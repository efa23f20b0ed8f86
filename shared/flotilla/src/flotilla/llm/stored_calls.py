"""Model answers, stored before they are used: a second request for the same answer never goes out.

The key is (tenant, task id, hash of the request, n-th equal request), so the order in which a task's parallel calls
arrive does not matter. Who makes the call holds a claim in `flotilla.llm_claims` and renews it; another that wants the
same answer meanwhile (a redelivered task) waits for it. A claim lapses `CLAIM_S` after its holder died, and then the
call is made again, since no answer was stored.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from functools import partial
from uuid import UUID, uuid4

import structlog

from flotilla.contracts.envelope import from_json, to_json
from flotilla.encryption.tables import LLM_CALLS
from flotilla.llm.budget import TokenBudget, TokenLimits
from flotilla.llm.calls import StoredCallKey
from flotilla.llm.chain import ModelChain
from flotilla.llm.model import (
    Completion,
    CompletionRequest,
    LanguageModel,
    ModelRefused,
    ModelUnavailable,
    OnToken,
)
from flotilla.llm.money import ChargedTokens, MoneyBudget, MoneyBudgetSpent, MoneyHeld, sum_charges
from flotilla.llm.observed import complete_observed
from flotilla.llm.request_hash import hash_completion_request
from flotilla.llm.storable_calls import escape_unsendable, escape_unstorable
from flotilla.postgres import AWAY, Connection, Pool, open_row, seal_columns, tenant_transaction
from flotilla.postgres.claims import CLAIM_S, keep_claim_renewed
from flotilla.telemetry.metrics import LLM_CACHE_HITS, LLM_REFUSED

_POLL_S = 0.2
LONGEST_WAIT_S = 60.0
"""For calls on their way that may use up a budget."""

# Takes the claim if it is free or lapsed.
_CLAIM_LLM_CALL = """
INSERT INTO flotilla.llm_claims (tenant_id, task_id, call_index, request_hash, claimed_by, expires_at)
VALUES ($1, $2, $3, $4, $5, clock_timestamp() + make_interval(secs => $6))
ON CONFLICT (tenant_id, task_id, call_index, request_hash)
DO UPDATE SET claimed_by = excluded.claimed_by, expires_at = excluded.expires_at
WHERE llm_claims.expires_at < clock_timestamp()
RETURNING true
"""
_RENEW_LLM_CALL_CLAIM = """
UPDATE flotilla.llm_claims SET expires_at = clock_timestamp() + make_interval(secs => $6)
WHERE tenant_id = $1 AND task_id = $2 AND call_index = $3 AND request_hash = $4 AND claimed_by = $5
"""
_RELEASE_LLM_CALL_CLAIM = """
DELETE FROM flotilla.llm_claims
WHERE tenant_id = $1 AND task_id = $2 AND call_index = $3 AND request_hash = $4 AND claimed_by = $5
"""
_SELECT_LLM_CALLS = """
SELECT answer FROM flotilla.llm_calls
WHERE tenant_id = $1 AND task_id = $2 AND call_index = $3 AND request_hash = $4
"""
_INSERT_LLM_CALLS = """
INSERT INTO flotilla.llm_calls (tenant_id, task_id, call_index, request_hash, run_id, session_id, agent, model, answer,
                                input_tokens, output_tokens, duration_ms)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12) ON CONFLICT DO NOTHING
"""

log = structlog.get_logger(__name__)


class StoredModelCalls:
    """Asks `model`, once per key. Built on a pool, so it works without a bus or an agent too."""

    def __init__(
        self, pool: Pool, model: LanguageModel, limits: TokenLimits | None = None, money: MoneyBudget | None = None
    ) -> None:
        self._pool = pool
        self._model = ModelChain.of(model)
        self._budget = TokenBudget(limits or TokenLimits())
        self._money = money

    @property
    def model_name(self) -> str:
        """The model that is asked for."""
        return self._model.name

    def stored_call_hash(self, request: CompletionRequest) -> bytes:
        """What tells requests apart: equal for two that must get the same answer."""
        return hash_completion_request(self._model.name, request)

    async def complete(
        self, key: StoredCallKey, request: CompletionRequest, on_token: OnToken | None = None
    ) -> Completion:
        """The stored answer, or the model's after it is stored. A stored one reaches `on_token` in one piece.

        Raises:
            ModelRefused, ModelUnavailable, ModelTimedOut: as `LanguageModel.complete`; failures are not stored.
            TokenBudgetSpent, MoneyBudgetSpent: too little is left, and the model was not asked.
        """
        call = _Call(key, self.stored_call_hash(request), uuid4())
        give_up_at = time.monotonic() + LONGEST_WAIT_S
        while True:
            try:
                return await self._answer(call, request, on_token)
            except MoneyBudgetSpent as spent:
                if not isinstance(spent, MoneyHeld) or time.monotonic() > give_up_at:
                    LLM_REFUSED.labels(spent.budget).inc()
                    raise
                await asyncio.sleep(_POLL_S)

    async def _answer(self, call: "_Call", request: CompletionRequest, on_token: OnToken | None) -> Completion:
        key = call.of
        while True:
            async with tenant_transaction(self._pool, key.tenant_id) as connection:
                claimed = await connection.fetchval(_CLAIM_LLM_CALL, *call.claim, CLAIM_S)
                # After the claim: its former holder stored its answer when it let go.
                stored = await _find(connection, call)
                if claimed and stored is not None:
                    await connection.execute(_RELEASE_LLM_CALL_CLAIM, *call.claim)
                elif claimed:
                    await self._budget.reserve_for_call(connection, call.reservation_name, request)
                    if self._money is not None:
                        await self._money.reserve_for_call(
                            connection, call.reservation_name, request, self._model.model_names
                        )
            if stored is not None:
                return await _reused(from_json(stored, Completion), on_token)
            if claimed:
                return await self._ask(call, request, on_token)
            await asyncio.sleep(_POLL_S)

    async def _ask(self, call: "_Call", request: CompletionRequest, on_token: OnToken | None) -> Completion:
        async with self._claim_held(call):
            asked = escape_unsendable(request if self._money is None else self._money.with_token_limit(request))
            started = time.monotonic()
            made = await self._model.ask(asked, on_token, partial(complete_observed, session_id=call.of.session_id))
            duration_ms = (time.monotonic() - started) * 1000
            completion = escape_unstorable(made)
            async with tenant_transaction(self._pool, call.of.tenant_id) as connection:
                await _store(connection, call, completion.answered_by, completion, duration_ms)
                await connection.execute(_RELEASE_LLM_CALL_CLAIM, *call.claim)
                charges = [ChargedTokens(made.answered_by, made.usage, made.cached_input_tokens, answered=True)]
                charges += [ChargedTokens(one.model, one.usage) for one in made.fallbacks if one.usage is not None]
                await self._settle(connection, call, charges)
        return completion

    @asynccontextmanager
    async def _claim_held(self, call: "_Call") -> AsyncIterator[None]:
        """Renew the claim meanwhile. When the call failed, release it, and charge what the endpoint counts for it."""
        async with keep_claim_renewed(partial(self._renew, call), of=f"model call of task {call.of.task_id}"):
            try:
                yield
            except BaseException as error:
                charge = None
                if isinstance(error, ModelRefused | ModelUnavailable) and error.usage is not None:
                    charge = ChargedTokens(error.model or self._model.name, error.usage)
                await asyncio.shield(self._release(call, charge))
                raise

    async def _settle(self, connection: Connection, call: "_Call", charges: Sequence[ChargedTokens]) -> None:
        await self._budget.settle_call(connection, call.reservation_name, sum_charges(charges))
        if self._money is not None:
            await self._money.settle_call(connection, call.of, call.reservation_name, call.hash, charges)

    async def _renew(self, call: "_Call") -> None:
        async with tenant_transaction(self._pool, call.of.tenant_id) as connection:
            await connection.execute(_RENEW_LLM_CALL_CLAIM, *call.claim, CLAIM_S)

    async def _release(self, call: "_Call", charge: ChargedTokens | None) -> None:
        try:
            async with tenant_transaction(self._pool, call.of.tenant_id) as connection:
                await connection.execute(_RELEASE_LLM_CALL_CLAIM, *call.claim)
                if charge is not None:
                    await self._settle(connection, call, [charge])
                    return
                await self._budget.release_reservation(connection, call.reservation_name)
                if self._money is not None:
                    await self._money.release_reservation(connection, call.reservation_name)
        except (*AWAY, TimeoutError) as error:
            log.warning("llm_claim_left_to_lapse", task_id=call.of.task_id, error=str(error))


@dataclass(frozen=True, slots=True)
class _Call:
    of: StoredCallKey
    hash: bytes
    claimed_by: UUID

    @property
    def key(self) -> tuple[str, str, int, bytes]:
        return self.of.tenant_id, self.of.task_id, self.of.call_index, self.hash

    @property
    def place(self) -> str:
        """The call's place, for the ciphertext of its answer."""
        return f"{self.of.task_id}/{self.of.call_index}/{self.hash.hex()}"

    @property
    def claim(self) -> tuple[str, str, int, bytes, UUID]:
        return *self.key, self.claimed_by

    @property
    def reservation_name(self) -> StoredCallKey:
        """The name under which tokens are reserved: calls are counted per request, so the request is part of it."""
        return replace(self.of, task_id=f"{self.of.task_id}/{self.hash.hex()}")


async def _find(connection: Connection, call: _Call) -> str | None:
    """The stored answer as JSON text."""
    answer = await connection.fetchval(_SELECT_LLM_CALLS, *call.key)
    row = {"session_id": call.of.session_id, "place": call.place, "answer": answer}
    return answer and str((await open_row(connection, call.of.tenant_id, LLM_CALLS, row))["answer"])


async def _store(connection: Connection, call: _Call, model: str, completion: Completion, duration_ms: float) -> None:
    usage = completion.usage
    context = (call.of.run_id, call.of.session_id, call.of.agent, model)
    stored = await seal_columns(
        connection, call.of.tenant_id, call.of.session_id, LLM_CALLS, call.place, answer=to_json(completion).decode()
    )
    await connection.execute(
        _INSERT_LLM_CALLS, *call.key, *context, stored["answer"], usage.input_tokens, usage.output_tokens, duration_ms
    )


async def _reused(completion: Completion, on_token: OnToken | None) -> Completion:
    LLM_CACHE_HITS.inc()
    if on_token and completion.text and completion.finish_reason != "refusal":  # which is not streamed either
        await on_token(completion.text)
    return completion
