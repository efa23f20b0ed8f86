"""A word that a person says is in no store and in no log of an encrypting fleet, in any usual encoding: not before an
erasure, and not after it."""

import base64
import json
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from redis import Redis

from flotilla.encryption import create_key_file
from tests.e2e.fleet import Fleet, finished, session_events
from tests.e2e.stores import query
from tests.support.scratch import open_folder
from tests.support.waiting import eventually

pytestmark = pytest.mark.timeout(600)
STORES = ("postgres", "kafka", "redis", "temporal", "logs")


@pytest.fixture(scope="module")
def encrypting() -> Iterator[Fleet]:
    with open_folder("encrypting-fleet") as home:
        create_key_file(home / "root.keys")
        env = {
            "OPENAI_API_KEY": "",
            "FLOTILLA_ENCRYPTION": "on",
            "FLOTILLA_ENCRYPTION_KEY_FILE": str(home / "root.keys"),
        }
        started = Fleet(home, env)
        try:
            started.up()
            yield started
        finally:
            started.down()


def encodings(word: str) -> set[bytes]:
    """The word as stores may hold it: as text, in UTF-16, in hexadecimal, and in base64 at each of its three places."""
    plain = word.encode()
    found = {plain, word.encode("utf-16-le"), plain.hex().encode(), plain.hex().upper().encode()}
    for before in range(3):
        encoded = base64.b64encode(b"\0" * before + plain)
        found |= {encoded[4 * bool(before) : 4 * ((before + len(plain)) // 3)]}
    return found


def files_with(home: Path, word: str) -> dict[str, list[str]]:
    """By store, the files that hold the word."""
    wanted = encodings(word)
    found: dict[str, list[str]] = {}
    for path in sorted(home.rglob("*")):
        if path.is_file() and not path.is_symlink():
            body = path.read_bytes()
            if any(each in body for each in wanted):
                store = next((part for part in path.relative_to(home).parts if part in STORES), path.name)
                found.setdefault(store, []).append(str(path.relative_to(home)))
    return found


def scanned(fleet: Fleet, word: str) -> dict[str, list[str]]:
    """The same once all servers have written what they hold in memory."""
    with Redis.from_url(fleet.redis_url) as redis:
        redis.save()
    return files_with(fleet.home, word)


async def approve(fleet: Fleet, reason: str) -> None:
    async with fleet.client("bob") as bob:

        async def waiting() -> list[dict[str, Any]]:
            return (await bob.get("/v1/approvals", params={"status": "pending"})).json()["approvals"]  # type: ignore[no-any-return]

        for one in await eventually(waiting, timeout_s=60):
            body = {"decision": "approve", "content_hash": one["content_hash"], "reason": reason}
            answer = await bob.post(f"/v1/approvals/{one['approval_id']}/decision", json=body)
            assert answer.is_success, answer.text


async def say_everywhere(fleet: Fleet, client: httpx.AsyncClient, session_id: str, word: str) -> str:
    """Let the word go in by a question, feedback, a task, an action and the reason of its approval; the run's id."""
    asked = await client.post(f"/v1/sessions/{session_id}/runs", json={"query": f"Where is {word} kept?"})
    run = await finished(client, asked.json()["run_id"])
    assert run["status"] == "success", run
    assert word in run["query"]
    said = await client.post(f"/v1/runs/{run['run_id']}/feedback", json={"verdict": "up", "comment": word})
    assert said.json()["comment"] == word
    body = {"steps": ["research"], "input": {"query": word}, "session_id": session_id}
    task = (await client.post("/v1/tasks", json=body)).json()

    async def task_over() -> dict[str, Any] | None:
        seen = (await client.get(f"/v1/tasks/{task['task_id']}")).json()
        return seen if seen["finished_at"] else None

    assert (await eventually(task_over, timeout_s=60))["status"] == "success"
    body = {
        "action": "echo",
        "description": f"repeat {word}",
        "risk_level": "high",
        "args": {"text": word},
        "session_id": session_id,
    }
    action = (await client.post("/v1/actions", json=body)).json()
    await approve(fleet, f"I know {word}")

    async def action_over() -> dict[str, Any] | None:
        seen = (await client.get(f"/v1/actions/{action['action_id']}")).json()
        return seen if seen["status"] in ("completed", "failed", "rejected") else None

    done = await eventually(action_over, timeout_s=60)
    assert done["result"] == {"text": word}, done
    steps = (await client.get(f"/v1/runs/{run['run_id']}/steps")).json()
    assert {step["kind"] for step in steps["steps"]} >= {"workflow_step", "delegation"}
    return str(run["run_id"])


async def test_no_store_and_no_log_holds_a_word_of_a_person(encrypting: Fleet) -> None:
    word, name = secrets.token_hex(16), secrets.token_hex(8)
    session_id = f"said-{name}"
    async with encrypting.client("alice") as client:
        run_id = await say_everywhere(encrypting, client, session_id, word)
        events = await session_events(client, session_id)
        assert json.dumps(events).count(word) > 5

        async def is_projected() -> bool:
            with_name = scanned(encrypting, name)
            return {"postgres", "kafka", "redis", "temporal"} <= set(with_name)

        await eventually(is_projected, timeout_s=60)  # the scan finds what is there: the session's name is clear
        assert scanned(encrypting, word) == {}
        plan = encrypting.cli_json("privacy", "erase", "--subject", "alice", "--dry-run")
        assert plan["encrypted_sessions"] >= 1
        assert plan["clear_sessions"] == 0
        asked = encrypting.cli_json("privacy", "erase", "--subject", "alice", "--reason", "request 1")
        await query(encrypting, "UPDATE flotilla.api_keys SET roles = roles || '{admin}' WHERE subject = 'bob'")

        async def is_confirmed() -> bool:  # keys are looked up again after some seconds
            words = ("privacy", "confirm", asked["erasure_id"], "--as", "bob")
            return encrypting.cli(*words, check=False).returncode == 0

        await eventually(is_confirmed, timeout_s=60, every_s=2)

        async def is_gone() -> bool:
            run = (await client.get(f"/v1/runs/{run_id}")).json()
            return bool(run["query"] == "[erased]")

        await eventually(is_gone, timeout_s=90)
        for path in (f"/v1/runs/{run_id}", "/v1/runs", "/v1/actions", "/v1/approvals", "/v1/tasks", "/v1/feedback"):
            answer = await client.get(path)
            assert answer.status_code == httpx.codes.OK, answer.text
            assert word not in answer.text
        again = await client.post(f"/v1/sessions/{session_id}/runs", json={"query": "Anything left?"})
        assert (again.status_code, again.json()["code"]) == (409, "session_erased")
    assert scanned(encrypting, word) == {}
