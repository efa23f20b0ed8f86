"""Bad input and bad neighbours: a clear error, and nothing lost."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.fleet import Fleet, finished, session_events, start_run
from tests.e2e.stub_endpoint import StubEndpoint

TOO_LONG = 100_000


@pytest.mark.parametrize(
    ("question", "why"),
    [
        ("", "at least 1 character"),
        ("   ", "blank"),
        ("x" * TOO_LONG, "at most 32000 characters"),
    ],
    ids=["empty", "blank", "too long"],
)
async def test_a_useless_question_is_422(
    llm_fleet: Fleet, unique: Callable[[str], str], question: str, why: str
) -> None:
    async with llm_fleet.client() as client:
        answer = await client.post(f"/v1/sessions/{unique('bad')}/runs", json={"query": question})
    assert answer.status_code == 422
    assert answer.headers["content-type"] == "application/problem+json"
    assert why in answer.json()["detail"]


@pytest.mark.parametrize("path", ["/v1/sessions/nobody", "/v1/sessions/nobody/events", "/v1/runs/nobody"])
async def test_what_does_not_exist_is_404(llm_fleet: Fleet, path: str) -> None:
    async with llm_fleet.client() as client:
        answer = await client.get(path)
    assert answer.status_code == 404
    assert "nobody" in answer.json()["detail"]


async def test_an_idempotency_key_with_another_body_is_409(llm_fleet: Fleet, unique: Callable[[str], str]) -> None:
    session_id = unique("idempotent")
    async with llm_fleet.client() as client:
        run_id = await start_run(client, session_id, "What is said?", session_id)
        assert await start_run(client, session_id, "What is said?", session_id) == run_id
        other = await client.post(
            f"/v1/sessions/{session_id}/runs", json={"query": "Other"}, headers={"Idempotency-Key": session_id}
        )
        assert other.status_code == 409
        assert (await finished(client, run_id))["status"] == "success"


async def test_a_refused_key_fails_the_run_at_once_with_that_reason(
    llm_fleet: Fleet, stub_llm: StubEndpoint, unique: Callable[[str], str]
) -> None:
    run, asked = await _run_with(llm_fleet, stub_llm, unique("refused"), "401")
    assert run["status"] == "error"
    assert "401" in run["error"]["message"] or "API key" in run["error"]["message"]
    assert asked == 1


@pytest.mark.parametrize("trouble", ["429", "500"])
async def test_a_busy_model_is_asked_again(
    llm_fleet: Fleet, stub_llm: StubEndpoint, unique: Callable[[str], str], trouble: str
) -> None:
    run, asked = await _run_with(llm_fleet, stub_llm, unique("busy"), trouble, "ok")
    assert run["status"] == "success"
    assert asked == 2


@pytest.mark.timeout(240)
async def test_a_model_that_never_answers_ends_the_run_by_policy(
    llm_fleet: Fleet, stub_llm: StubEndpoint, unique: Callable[[str], str]
) -> None:
    run, asked = await _run_with(llm_fleet, stub_llm, unique("mute"), "never")
    assert run["status"] in ("error", "timeout")
    assert asked == 3


async def test_an_unreadable_document_is_reported_and_the_others_are_loaded(llm_fleet: Fleet, tmp_path: Path) -> None:
    (tmp_path / "good.md").write_text("# Good\n\nThe lighthouse at Kelpsund flashes twice.\n")
    (tmp_path / "bad.md").write_bytes(b"\xff\xfe\x00\x01broken\x80")
    done = llm_fleet.cli("documents", "add", str(tmp_path), check=False)
    assert done.returncode == 1
    assert "bad.md" in done.stdout + done.stderr
    found = llm_fleet.cli_json("documents", "search", "lighthouse Kelpsund")
    assert "flashes twice" in str(found)


async def _run_with(fleet: Fleet, stub: StubEndpoint, session_id: str, *modes: str) -> tuple[dict[str, Any], int]:
    question = f"What do the documents say about {session_id}?"
    async with fleet.client() as client:
        with stub.acting(*modes):
            run = await finished(client, await start_run(client, session_id, question, session_id), timeout_s=200)
        events = await session_events(client, session_id)
    if run["status"] != "success":
        assert "flotilla.session.error.v1" in [event["type"] for event in events]
    return run, stub.requests()[question]
