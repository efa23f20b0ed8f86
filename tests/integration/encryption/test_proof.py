"""What proves a history needs no key: checks, exports and analytics say the same after a key is destroyed."""

import asyncio
import io
import json
import secrets
import sys
import zipfile
from pathlib import Path

import pytest

from audit_consumer.rebuild import rebuild_projection
from flotilla.audit.verify import HistoryVerifier
from flotilla.config import KafkaSettings
from flotilla.contracts.identity import user_name
from flotilla.contracts.json_types import JsonObject
from flotilla.contracts.session_events import AgentStateEvent
from flotilla.encryption import Keyring
from flotilla.postgres import Pool
from gateway.privacy.export import PersonExport
from tests.support.audit import Projected, audit_settings, outbox_bodies, publish_bodies
from tests.support.encryption import encrypting_pool, rows_with
from tests.support.exports import Recorder, recorded
from tests.support.postgres import Database

DESTROY = "UPDATE flotilla.person_keys SET wrapped_key = NULL, erased_at = now()"
USED = "SELECT tool, ok, duration_ms, error FROM audit.tool_usage ORDER BY seq"


@pytest.fixture
async def recorder(sealing: Pool, audit_pool: Pool, database: Database, tmp_path: Path) -> Recorder:
    return Recorder(sealing, audit_pool, database, tmp_path)


def used(canary: str) -> list[AgentStateEvent]:
    call: JsonObject = {"tool": "search", "call_id": "c", "args": {"query": canary}, "agent": "research"}
    result: JsonObject = {
        "tool": "search",
        "call_id": "c",
        "ok": False,
        "duration_ms": 7.5,
        "error": canary,
        "agent": "research",
    }
    return [
        AgentStateEvent(kind="tool_call", data=call, source="/agents/research"),
        AgentStateEvent(kind="tool_result", data=result, source="/agents/research"),
    ]


async def verdict_on(recorder: Recorder, exported: bytes) -> str:
    """What the standalone verifier says of an export."""
    file = recorder.folder / "export.jsonl"
    file.write_bytes(exported)
    command = ["-m", "flotilla.audit.verify_export", str(file), "--public-key", str(recorder.public_key)]
    process = await asyncio.create_subprocess_exec(sys.executable, *command, stdout=asyncio.subprocess.PIPE)
    said, _ = await process.communicate()
    assert process.returncode == 0, said
    return said.decode()


async def test_the_proof_of_a_history_outlives_its_keys(
    recorder: Recorder, keyring: Keyring, database: Database, projected: Projected
) -> None:
    canary = secrets.token_hex(16)
    await recorded(recorder)
    await recorder.store.append("plain", used(canary))
    await recorder.project()
    assert await rows_with(database, canary) == []
    sessions = ("plain", "rolled", "governed", "fork", "below")
    before = {session: await recorder.export(session) for session in sessions}
    said = {session: await verdict_on(recorder, exported) for session, exported in before.items()}
    await projected.execute(DESTROY)
    keyring.forget()
    verdict = await HistoryVerifier(recorder.pool, "default", recorder.keys()).verify_sessions(None)
    assert verdict.ok, verdict.problems
    for session in sessions:
        assert "GOOD" in said[session]
        assert await recorder.export(session) == before[session]
        assert await verdict_on(recorder, before[session]) == said[session]
    assert [tuple(row) for row in await projected.fetch(USED)] == [("search", False, 7.5, None)]
    messages = (await recorder.store.state_at("rolled")).messages
    assert [message.content for message in messages] == ["[erased]"]


async def test_a_rebuild_needs_no_key_and_brings_no_word_back(
    recorder: Recorder, keyring: Keyring, database: Database, kafka: KafkaSettings, projected: Projected
) -> None:
    canary = secrets.token_hex(16)
    await recorder.store.ensure_session("s1", "ada")
    await recorder.store.append("s1", used(canary))
    await publish_bodies(kafka, await outbox_bodies(database))
    await recorder.project()
    await projected.execute(DESTROY)
    await projected.execute("DELETE FROM flotilla.event_outbox")
    keyring.forget()
    outcome = await rebuild_projection(audit_settings(database, kafka, recorder.folder))
    assert outcome["events"] == 2
    assert await rows_with(database, canary) == []
    state = await recorder.store.state_at("s1")
    assert [call.args for call in state.tool_calls] == [{"text": "[erased]"}]
    assert [(result.error, result.duration_ms) for result in state.tool_results] == [("[erased]", 7.5)]


async def test_an_export_of_a_person_carries_proofs_that_others_check(
    recorder: Recorder, database: Database, key_file: Path
) -> None:
    canary = secrets.token_hex(16)
    await recorded(recorder)
    await recorder.store.append("plain", used(canary))
    await recorder.project()
    async with encrypting_pool(database, key_file, "flotilla_gateway") as gateway:
        export = PersonExport(gateway, None, "default", user_name("flotilla", "ada"))
        whole = io.BytesIO(b"".join([data async for data in export.stream()]))
    archive = zipfile.ZipFile(whole)
    for session in ("plain", "rolled", "governed", "fork", "below"):
        assert archive.read(f"proofs/{session}.jsonl") == await recorder.export(session)
    assert "GOOD" in await verdict_on(recorder, archive.read("proofs/plain.jsonl"))
    assert canary in archive.read("events/plain.jsonl").decode()
    own = [json.loads(line) for line in archive.read("events/fork.jsonl").splitlines()]
    assert {event["subject"] for event in own} == {"fork"}  # its parent's are in the parent's file


async def test_the_copy_for_queries_is_without_ciphertext(recorder: Recorder, projected: Projected) -> None:
    await recorder.store.ensure_session("plain", "ada")
    await recorder.store.append("plain", used("words"))
    await recorder.project()
    copies = await projected.fetch("SELECT event -> 'data' AS data, body FROM audit.session_events")
    assert all(b'"sealed":"' in row["body"] for row in copies)
    assert [json.loads(row["data"]).keys() for row in copies] == [
        {"tool", "call_id", "agent"},
        {"tool", "call_id", "agent", "ok", "duration_ms"},
    ]
    verifier = HistoryVerifier(recorder.pool, "default", recorder.keys())
    assert (await verifier.verify_sessions(None)).ok
    # Those of a former version have it.
    await projected.execute("UPDATE audit.session_events SET event = convert_from(body, 'UTF8')::jsonb")
    assert (await verifier.verify_sessions(None)).ok
    await projected.execute("UPDATE audit.session_events SET event = jsonb_set(event, '{data,tool}', '\"other\"')")
    assert not (await verifier.verify_sessions(None)).ok
