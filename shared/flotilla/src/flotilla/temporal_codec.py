"""Payloads in Temporal, encrypted with the key of their workflow's session.

What is encrypted says in clear whose it is: tenant, session and workflow, to which it is bound. Temporal's own fields
stay clear: names of workflows, activities and signals, times, ids. Failures' texts become payloads (`FAILURES`).
"""

import re
from collections.abc import Sequence
from typing import Protocol, Self

import msgspec
from temporalio.api.common.v1 import Payload
from temporalio.converter import (
    ActivitySerializationContext,
    DefaultFailureConverterWithEncodedAttributes,
    PayloadCodec,
    SerializationContext,
    WithSerializationContext,
    WorkflowSerializationContext,
)

from flotilla.contracts.errors import SessionErased, UnreadablePayload
from flotilla.encryption import Cipher, Unreadable

ENCODING = b"binary/flotilla"
FAILURES = DefaultFailureConverterWithEncodedAttributes
_JSON = b"json/plain"
_SCHEDULED_AT = re.compile(r"-\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ")


class Ciphers(Protocol):
    """Where the keys come from."""

    async def session_of(self, workflow_id: str) -> tuple[str, str] | None: ...
    def note(self, workflow_id: str, tenant_id: str, session_id: str) -> None: ...
    async def writing(self, tenant_id: str, session_id: str) -> Cipher | None: ...
    async def reading(self, tenant_id: str, session_id: str) -> Cipher | None: ...


class _Names(msgspec.Struct):
    """What requests say of themselves."""

    tenant_id: str
    session_id: str


class SessionCodec(PayloadCodec, WithSerializationContext):
    """Encrypts what goes to Temporal and decrypts what comes from there."""

    def __init__(self, ciphers: Ciphers, workflow_id: str | None = None) -> None:
        """Without a workflow nothing is encrypted: the SDK names it by `with_context`."""
        self._ciphers = ciphers
        self._workflow_id = workflow_id

    def with_context(self, context: SerializationContext) -> Self:
        """The codec for payloads of one workflow."""
        if not isinstance(context, WorkflowSerializationContext | ActivitySerializationContext):
            return self
        return type(self)(self._ciphers, context.workflow_id)

    async def encode(self, payloads: Sequence[Payload]) -> list[Payload]:
        """The payloads encrypted; those of a workflow without a session as they are.

        Raises:
            RetryLater: PostgreSQL does not answer.
        """
        return [await self._encoded(payload) for payload in payloads]

    async def decode(self, payloads: Sequence[Payload]) -> list[Payload]:
        """The payloads as they were.

        Raises:
            SessionErased: the key was destroyed.
            UnreadablePayload: one was changed, moved from another workflow, or this process has no key.
        """
        return [await self._decoded(payload) for payload in payloads]

    async def _encoded(self, payload: Payload) -> Payload:
        workflow_id = self._workflow_id
        if workflow_id is None or is_encrypted(payload):
            return payload
        names = await self._ciphers.session_of(workflow_id) or _named_in(payload)
        cipher = None if names is None else await self._ciphers.writing(*names)
        if names is None or cipher is None:
            return payload
        # Of a session whose key was destroyed nothing is kept.
        sealed = b"" if cipher.key is None else cipher.key.seal(payload.SerializeToString(), _place(workflow_id))
        tenant, session = (name.encode() for name in names)
        metadata = {"encoding": ENCODING, "tenant": tenant, "session": session, "workflow": workflow_id.encode()}
        return Payload(metadata=metadata, data=sealed)

    async def _decoded(self, payload: Payload) -> Payload:
        if not is_encrypted(payload):
            return payload
        tenant, session, workflow_id = names_of(payload)
        if self._workflow_id is not None and not _is_of(workflow_id, self._workflow_id):
            raise UnreadablePayload(f"workflow {self._workflow_id} holds a payload of workflow {workflow_id}")
        opened = await opened_payload(self._ciphers, payload)
        self._ciphers.note(workflow_id, tenant, session)
        return opened


def is_encrypted(payload: Payload) -> bool:
    """Whether a codec made the payload."""
    return payload.metadata.get("encoding") == ENCODING


def names_of(payload: Payload) -> tuple[str, str, str]:
    """Tenant, session and workflow of an encrypted payload, as it says."""
    tenant, session, workflow = (payload.metadata[name].decode() for name in ("tenant", "session", "workflow"))
    return tenant, session, workflow


async def opened_payload(ciphers: Ciphers, payload: Payload) -> Payload:
    """An encrypted payload as it was.

    Raises:
        SessionErased, UnreadablePayload: as `SessionCodec.decode`.
    """
    tenant, session, workflow_id = names_of(payload)
    cipher = await ciphers.reading(tenant, session)
    if cipher is not None and cipher.key is None:
        raise SessionErased(f"session {session} was erased: what workflow {workflow_id} holds can't be read any more")
    if cipher is None or cipher.key is None:
        raise UnreadablePayload(f"session {session} has no key, so a payload of workflow {workflow_id} can't be read")
    try:
        return Payload.FromString(cipher.key.open(payload.data, _place(workflow_id)))
    except Unreadable as error:
        raise UnreadablePayload(str(error)) from error


def _named_in(payload: Payload) -> tuple[str, str] | None:
    """The session of a workflow that has no row yet: that of the request which starts it."""
    if payload.metadata.get("encoding") != _JSON:
        return None
    try:
        named = msgspec.json.decode(payload.data, type=_Names)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return None
    return (named.tenant_id, named.session_id) if named.session_id else None


def _is_of(named: str, workflow_id: str) -> bool:
    """Whether a payload of the workflow `named` belongs into this one: a schedule's payloads name its workflows without
    the time that Temporal appends to their ids."""
    return workflow_id == named or bool(_SCHEDULED_AT.fullmatch(workflow_id.removeprefix(named)))


def _place(workflow_id: str) -> str:
    return f"temporal/{workflow_id}"
