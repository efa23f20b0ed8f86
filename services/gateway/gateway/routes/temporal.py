"""Decrypts what Temporal's own web page shows: the protocol of its codec servers."""

import structlog
from google.protobuf.json_format import MessageToDict, ParseDict, ParseError
from temporalio.api.common.v1 import Payload

from flotilla.audit.admin_log import record_admin_changes
from flotilla.contracts.errors import Invalid, SessionErased, UnreadablePayload
from flotilla.encryption import ERASED, UNREADABLE
from flotilla.postgres import tenant_transaction
from flotilla.temporal_codec import is_encrypted, names_of, opened_payload
from gateway.auth.principal import OPERATORS
from gateway.guard import allow, guarded_router
from gateway.names import SOURCE
from gateway.routes.documented import documented_errors
from gateway.schemas.temporal import Payloads
from gateway.services import Caller, GatewayServices, Wired

router = guarded_router("temporal")
_SELECT_VISIBLE_SESSIONS = "SELECT session_id FROM flotilla.sessions WHERE tenant_id = $1 AND session_id = ANY ($2)"
log = structlog.get_logger(__name__)


@router.post("/v1/temporal/decode", response_model=Payloads, responses=documented_errors(413, 415))
@allow(OPERATORS, free_json=True)
async def decode_payloads(services: Wired, caller: Caller, body: Payloads) -> Payloads:
    """Decrypt payloads of workflows for Temporal's web page. Those of sessions that the caller may not read come back
    as they are. What is decrypted is recorded in the tenant's audit session."""
    payloads = [_payload(one) for one in body.payloads]
    named = {n: names_of(one) for n, one in enumerate(payloads) if is_encrypted(one)}
    own = sorted({session for tenant, session, _ in named.values() if tenant == caller.tenant_id})
    if not own or services.temporal.ciphers is None:
        return body
    async with tenant_transaction(services.pool, caller.tenant_id) as connection:
        visible = {row["session_id"] for row in await connection.fetch(_SELECT_VISIBLE_SESSIONS, caller.tenant_id, own)}
        if visible:
            details = {**caller.by, "sessions": sorted(visible)}
            await record_admin_changes(connection, caller.tenant_id, SOURCE, ("privacy_payloads_read", details))
    for number, (tenant, session, _) in named.items():
        if tenant == caller.tenant_id and session in visible:
            payloads[number] = await _opened(services, payloads[number])
    return Payloads(payloads=[MessageToDict(one) for one in payloads])


async def _opened(services: GatewayServices, payload: Payload) -> Payload:
    assert services.temporal.ciphers is not None  # noqa: S101 - checked by the caller
    try:
        return await opened_payload(services.temporal.ciphers, payload)
    except SessionErased:
        mark = ERASED
    except UnreadablePayload:
        mark = UNREADABLE
    return Payload(metadata={"encoding": b"json/plain"}, data=f'"{mark}"'.encode())


def _payload(given: dict[str, object]) -> Payload:
    try:
        payload = ParseDict(given, Payload())
        if is_encrypted(payload):
            names_of(payload)
    except (ParseError, KeyError, UnicodeDecodeError) as error:
        raise Invalid(f"payloads: one is no payload of Temporal's: {error}") from error
    return payload
