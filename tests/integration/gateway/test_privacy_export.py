"""Exports of a person: who gets one, what is in it, and that it is whole."""

import hashlib
import io
import json
import secrets
import zipfile
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from flotilla.postgres import Pool
from gateway.privacy.holdings import OF_PERSON, OF_SESSIONS, OF_SUBJECT
from tests.integration.gateway.conftest import Replica
from tests.support.encryption import key_file
from tests.support.gateway import RunningGateway

__all__ = ["key_file"]
EXPORTS = "/v1/privacy/exports"
NOT_EXPORTED = {
    # Credentials, and what only the login needs.
    *("browser_tokens", "sign_ins", "person_keys", "session_keys"),
    # What repeats other rows, or names them: the outbox and its copies, tickets, erased sessions.
    *("delegations", "event_outbox", "outbox_parked", "outbox_replaced", "erasure_sessions", "session_rollbacks"),
    *("a2a_receivers", "reservations", "verifications", "sealed_snapshots"),
    # May be secret.
    "legal_holds",
}


@pytest.fixture
async def encrypting(replica: Replica, key_file: Path) -> AsyncIterator[RunningGateway]:
    """A replica that encrypts."""
    async with replica(encryption="on", encryption_key_file=key_file) as running:
        yield running


async def confirmed_export(gateway: RunningGateway, subject: str = "ada") -> tuple[httpx.AsyncClient, str]:
    """Who asked for an export that is confirmed, and where it is."""
    otto, petra = [await gateway.client_of(name, "admin", person=True) for name in ("otto", "petra")]
    asked = await otto.post(EXPORTS, json={"subject": subject, "reason": "request 18"})
    assert (asked.status_code, asked.json()["confirmed_at"]) == (202, None), asked.text
    request_id = asked.json()["request_id"]
    early = await otto.get(f"{EXPORTS}/{request_id}/archive")
    assert (early.status_code, "waits for a further person" in early.text) == (409, True)
    assert (await petra.post(f"/v1/privacy/requests/{request_id}/confirm")).status_code == 202
    return otto, f"{EXPORTS}/{request_id}/archive"


def opened(content: bytes) -> tuple[dict[str, Any], dict[str, list[Any]]]:
    """The index, and the lines of each file, which are those that the index names."""
    archive = zipfile.ZipFile(io.BytesIO(content))
    index = json.loads(archive.read("index.json"))
    named = {file["file"]: file for file in index["files"]}
    assert {*named, "index.json"} == set(archive.namelist())
    for name, file in named.items():
        assert file["sha256"] == hashlib.sha256(archive.read(name)).hexdigest()
        assert file["lines"] == archive.read(name).count(b"\n")
    return index, {name: [json.loads(line) for line in archive.read(name).splitlines()] for name in named}


async def test_an_export_holds_what_is_the_persons_and_nothing_of_others(
    encrypting: RunningGateway, unique: Callable[[str], str]
) -> None:
    hers, his, shared = secrets.token_hex(16), secrets.token_hex(16), unique("shared")
    session, other = unique("s"), unique("o")
    ada = await encrypting.client_of("ada", "operator", person=True)
    bob = await encrypting.client_of("bob", "operator", person=True)
    started = await ada.post(f"/v1/sessions/{session}/runs", json={"query": f"Who is {hers}?"})
    run_id = started.json()["run_id"]
    await encrypting.finish(run_id)
    judged = await ada.post(f"/v1/runs/{run_id}/feedback", json={"verdict": "up", "comment": f"Good {hers}"})
    assert judged.is_success, judged.text
    await bob.post(f"/v1/sessions/{other}/runs", json={"query": f"Who is {his}?"})
    await bob.post("/v1/sessions", json={"session_id": shared})
    given = await bob.patch(f"/v1/sessions/{shared}/access", json={"add_readers": [{"name": "ada"}]})
    assert given.is_success, given.text
    otto, path = await confirmed_export(encrypting)
    answer = await otto.get(path)
    assert (answer.status_code, answer.headers["content-type"]) == (200, "application/zip")
    index, files = opened(answer.content)
    assert (index["format"], index["person"]) == ("flotilla-person-export/1", "user/flotilla/ada")
    assert his not in str(files)
    assert [run["query"] for run in files["runs.jsonl"]] == [f"Who is {hers}?"]
    assert [one["session_id"] for one in files["sessions.jsonl"]] == [session]
    assert hers in str(files[f"events/{session}.jsonl"])
    assert [one["comment"] for one in files["own_feedback.jsonl"]] == [f"Good {hers}"]
    assert [one["session_id"] for one in files["shared_sessions.jsonl"]] == [shared]
    assert [one["subject"] for one in files["people.jsonl"]] == ["ada"]
    assert "key_hash" not in str(files["api_keys.jsonl"])
    proof = files[f"proofs/{session}.jsonl"]
    assert (proof[0]["kind"], proof[-1]["kind"]) == ("header", "end")
    assert hers not in str(proof)
    recorded = (await otto.get("/v1/sessions/flotilla:audit/events")).json()["events"]
    changes = [event["data"]["change"] for event in recorded]
    assert [change for change in changes if change.startswith("privacy_export")] == [
        "privacy_export_requested",
        "privacy_export_confirmed",
        "privacy_exported",
    ]


async def test_only_who_asked_fetches_it(encrypting: RunningGateway, unique: Callable[[str], str]) -> None:
    ada = await encrypting.client_of("ada", "operator", person=True)
    await ada.post(f"/v1/sessions/{unique('s')}/runs", json={"query": "Why?"})
    otto, path = await confirmed_export(encrypting)
    petra = await encrypting.client_of("petra", "admin", person=True)
    stranger = await encrypting.client_of("otto", "admin", tenant="globex", person=True)
    assert [(await who.get(path)).status_code for who in (petra, ada, stranger)] == [403, 403, 404]
    await encrypting.as_superuser("UPDATE flotilla.privacy_requests SET confirmed_at = now() - interval '8 days'")
    late = await otto.get(path)
    assert (late.status_code, "over 7 days ago" in late.text) == (409, True)


async def test_an_export_needs_no_further_person_where_the_policy_asks_for_none(
    replica: Replica, tmp_path: Path, unique: Callable[[str], str]
) -> None:
    policy = tmp_path / "policy.toml"
    policy.write_text('extends = "builtin:production"\nversion = "1"\n[privacy]\nexport = 0\n')
    async with replica(approval_policy=str(policy)) as gateway:
        ada = await gateway.client_of("ada", "operator", person=True)
        await ada.post(f"/v1/sessions/{unique('s')}/runs", json={"query": "Why?"})
        robot = await gateway.client_of("robot", "admin")
        asked = await robot.post(EXPORTS, json={"subject": "ada", "reason": "request 18"})
        assert asked.json()["confirmed_at"] is not None
        archive = await robot.get(f"{EXPORTS}/{asked.json()['request_id']}/archive")
        assert len(opened(archive.content)[1]["runs.jsonl"]) == 1


async def test_pages_of_an_export_leave_nothing_out(
    encrypting: RunningGateway, unique: Callable[[str], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    ada = await encrypting.client_of("ada", "operator", person=True)
    sessions = sorted(unique("s") for _ in range(5))
    for session in sessions:
        await ada.post(f"/v1/sessions/{session}/runs", json={"query": "Why?"})
    monkeypatch.setattr("gateway.privacy.export._SESSIONS_AT_ONCE", 2)
    monkeypatch.setattr("gateway.privacy.export._EVENTS_AT_ONCE", 1)
    monkeypatch.setattr("gateway.privacy.export.OF_SESSIONS", [replace(holding, page=2) for holding in OF_SESSIONS])
    otto, path = await confirmed_export(encrypting)
    _, files = opened((await otto.get(path)).content)
    assert sorted(run["session_id"] for run in files["runs.jsonl"]) == sessions
    for session in sessions:
        head = (await ada.get(f"/v1/sessions/{session}")).json()["head_seq"]
        assert len(files[f"events/{session}.jsonl"]) == head


async def test_an_erased_persons_export_shows_what_is_left(
    encrypting: RunningGateway, unique: Callable[[str], str]
) -> None:
    ada = await encrypting.client_of("ada", "operator", person=True)
    session = unique("s")
    await ada.post(f"/v1/sessions/{session}/runs", json={"query": "Why?"})
    otto, petra = [await encrypting.client_of(name, "admin", person=True) for name in ("otto", "petra")]
    asked = await otto.post("/v1/privacy/erasures", json={"subject": "ada", "reason": "request 17"})
    await petra.post(f"/v1/privacy/erasures/{asked.json()['erasure_id']}/confirm")
    otto, path = await confirmed_export(encrypting)
    _, files = opened((await otto.get(path)).content)
    assert "[erased]" in str(files[f"events/{session}.jsonl"])
    assert [one["erasure_id"] for one in files["erasures.jsonl"]] == [asked.json()["erasure_id"]]


async def test_every_table_about_people_is_exported_or_left_out_on_purpose(pool: Pool) -> None:
    about = {
        row[0]
        for row in await pool.fetch(
            "SELECT DISTINCT table_name FROM information_schema.columns WHERE table_schema = 'flotilla' "
            "AND column_name IN ('session_id', 'person', 'owner', 'subject', 'user_id', 'given_by')"
        )
    }
    exported = {holding.table for holding in (*OF_SESSIONS, *OF_PERSON, *OF_SUBJECT)}
    assert about - exported - NOT_EXPORTED == set()
    assert exported & NOT_EXPORTED == set()
