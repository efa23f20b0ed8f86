"""Events that trusted services append to sessions: what an external worker decides is history, too."""

import msgspec

from flotilla.contracts.errors import Forbidden, Invalid
from flotilla.contracts.names import service_source
from flotilla.contracts.session_events import DATA_OF_KIND, AgentStateEvent
from flotilla.eventstore.sessions import check_may_write_session, get_session
from flotilla.outbox import append
from flotilla.postgres import Connection, tenant_transaction
from gateway.auth.principal import Principal
from gateway.idempotency import IdempotencyClaim
from gateway.schemas.sessions import AppendBody, Appended, NewEvent
from gateway.services import GatewayServices

_SELECT_RIGHT_API_KEYS = (
    "SELECT appends_as FROM flotilla.api_keys WHERE tenant_id = $1 AND key_id = $2 AND revoked_at IS NULL"
)
_SELECT_RUNS = "SELECT run_id FROM flotilla.runs WHERE tenant_id = $1 AND session_id = $2 AND run_id = ANY($3)"


async def append_to_session(
    services: GatewayServices, caller: Principal, session_id: str, body: AppendBody, claim: IdempotencyClaim
) -> Appended:
    """Append the events, all or none; a repetition of the request gets the first one's answer.

    Raises:
        Forbidden: the key has no right to append, or an event is not the service's to write.
        NotFound: there is no such session.
        SequenceConflict: the session's head is not `expected_seq`.
        Invalid: an event is not what its kind takes, or names a run of another session.
    """
    async with tenant_transaction(services.pool, caller.tenant_id) as connection:
        source = await _source(connection, caller)
        await check_may_write_session(connection, caller.tenant_id, session_id)
        await _check_runs(connection, caller.tenant_id, session_id, body)
        events = [_event(event, place, source) for place, event in enumerate(body.events)]
        session = await get_session(connection, caller.tenant_id, session_id, lock=True)
        first = session.head_seq + 1
        # Nobody else appends now, so that what the request makes is known before it is made.
        earlier = await claim.take(connection, str(first))
        if earlier is None:
            await append(
                connection, caller.tenant_id, session_id, events, expected_seq=body.expected_seq, source=source
            )
        first = int(earlier or first)
    return Appended(session_id=session_id, first_seq=first, last_seq=first + len(events) - 1, source=source)


async def _source(connection: Connection, caller: Principal) -> str:
    """Return in whose name the caller appends."""
    name = None
    if caller.key_id is not None and not caller.is_person and caller.acted_by is None:
        name = await connection.fetchval(_SELECT_RIGHT_API_KEYS, caller.tenant_id, caller.key_id)
    if name is None:
        raise Forbidden("this key may not append events: a service's key made with may_append_as may")
    return service_source(name)


async def _check_runs(connection: Connection, tenant_id: str, session_id: str, body: AppendBody) -> None:
    named = {event.run_id for event in body.events if event.run_id}
    rows = await connection.fetch(_SELECT_RUNS, tenant_id, session_id, sorted(named)) if named else []
    if missing := named - {row["run_id"] for row in rows}:
        raise Invalid(
            f"session {session_id} has no run {min(missing)}: GET /v1/runs?session_id={session_id} lists its runs"
        )


def _event(event: NewEvent, place: int, source: str) -> AgentStateEvent:
    try:
        msgspec.convert(event.data, DATA_OF_KIND[event.kind])
    except msgspec.ValidationError as error:
        raise Invalid(f"events/{place}: it is not a {event.kind}: {error}") from error
    return AgentStateEvent(kind=event.kind, data=event.data, source=source, run_id=event.run_id)
