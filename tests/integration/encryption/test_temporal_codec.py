"""Payloads for Temporal: whose key encrypts them, and what is refused."""

import json

import pytest
from temporalio.api.common.v1 import Payload

from flotilla.contracts.errors import SessionErased, UnreadablePayload
from flotilla.encryption import Keyring
from flotilla.eventstore import AgentEventStore
from flotilla.postgres import Pool
from flotilla.postgres.workflow_ciphers import WorkflowCiphers
from flotilla.temporal_codec import SessionCodec, names_of
from tests.integration.encryption.test_session_events import DESTROY, as_superuser
from tests.support.postgres import Database


@pytest.fixture
async def codec(sealing: Pool, keyring: Keyring) -> SessionCodec:
    await AgentEventStore(sealing).ensure_session("s1", "ada")
    return SessionCodec(WorkflowCiphers(sealing, keyring), "run-1")


def said(**fields: str) -> Payload:
    return Payload(metadata={"encoding": b"json/plain"}, data=json.dumps(fields).encode())


async def test_a_payload_of_another_workflow_is_refused(codec: SessionCodec, sealing: Pool, keyring: Keyring) -> None:
    [sealed] = await codec.encode([said(tenant_id="default", session_id="s1", query="secret")])
    assert names_of(sealed) == ("default", "s1", "run-1")
    assert b"secret" not in sealed.SerializeToString()
    assert b"secret" in (await codec.decode([sealed]))[0].data
    other = SessionCodec(WorkflowCiphers(sealing, keyring), "other-2")
    with pytest.raises(UnreadablePayload):
        await other.decode([sealed])
    renamed = Payload(metadata={**sealed.metadata, "workflow": b"other-2"}, data=sealed.data)
    with pytest.raises(UnreadablePayload):
        await other.decode([renamed])


async def test_only_workflows_of_a_schedule_take_payloads_of_a_shorter_id(
    codec: SessionCodec, sealing: Pool, keyring: Keyring
) -> None:
    [sealed] = await codec.encode([said(tenant_id="default", session_id="s1", query="secret")])
    ciphers = WorkflowCiphers(sealing, keyring)
    assert b"secret" in (await SessionCodec(ciphers, "run-1-2026-11-30T10:00:00Z").decode([sealed]))[0].data
    for longer in ("run-12", "run-1-2"):
        with pytest.raises(UnreadablePayload):
            await SessionCodec(ciphers, longer).decode([sealed])


async def test_what_names_no_session_stays_clear(codec: SessionCodec) -> None:
    for clear in (said(n="1"), said(tenant_id="default", session_id="unknown"), Payload(data=b"\xff")):
        assert await codec.encode([clear]) == [clear]
        assert await codec.decode([clear]) == [clear]


async def test_an_erased_session_keeps_nothing_and_shows_nothing(
    codec: SessionCodec, keyring: Keyring, database: Database
) -> None:
    [sealed] = await codec.encode([said(tenant_id="default", session_id="s1", query="secret")])
    await as_superuser(database, DESTROY)
    keyring.forget()
    with pytest.raises(SessionErased):
        await codec.decode([sealed])
    [late] = await codec.encode([said(tenant_id="default", session_id="s1", query="late words")])
    assert late.data == b""
    with pytest.raises(SessionErased):
        await codec.decode([late])
