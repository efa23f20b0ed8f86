"""What the handler of a governed action gets. For authors of further actions: see docs/approvals.md."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

from flotilla.contracts.json_types import JsonValue
from flotilla.postgres import Pool

if TYPE_CHECKING:  # only the worker installs it
    import httpx


@dataclass(frozen=True, slots=True)
class ActionContext:
    """What a handler may use.

    `idempotency_key` is the same for each repetition of one execution: a handler must allow for running twice, and
    passes the key to the system that applies the effect. `pool` is for `flotilla.postgres.tenant_transaction(pool,
    tenant_id)`; `http` follows no redirects; `allowed_hosts` are those of `FLOTILLA_ACTION_HTTP_HOSTS`.
    """

    tenant_id: str
    session_id: str
    action_id: str
    requested_by: str
    idempotency_key: str
    pool: Pool
    http: httpx.AsyncClient
    allowed_hosts: tuple[str, ...]


# Gets the context and the typed arguments, gives the action's result. `flotilla.contracts.errors.Refused` (`Invalid`,
# `Forbidden`, `NotFound`) ends the action with its message; after any other error the handler is called again.
Handler: TypeAlias = Callable[[ActionContext, Any], Awaitable[JsonValue]]
