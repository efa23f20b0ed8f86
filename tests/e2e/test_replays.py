"""The replay lab on a whole fleet: recorded questions again with another model, beside what was recorded."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx

from tests.e2e.fleet import Fleet, finished, session_events, start_run
from tests.e2e.stub_endpoint import StubEndpoint

ASKED = "What do the documents say about every question?"


async def recorded(fleet: Fleet, session_id: str) -> dict[str, Any]:
    async with fleet.client() as client:
        return await finished(client, await start_run(client, session_id, ASKED, session_id))


async def test_recorded_questions_are_asked_again_with_the_built_in_model_and_another_endpoint_model(
    llm_fleet: Fleet, stub_llm: StubEndpoint, unique: Callable[[str], str], tmp_path: Path
) -> None:
    session_id = unique("replayed")
    run = await recorded(llm_fleet, session_id)
    asked_before = sum(stub_llm.requests().values())
    report = llm_fleet.cli_json("eval", "replay", session_id, "--model", "flotilla-extractive-1")
    assert sum(stub_llm.requests().values()) == asked_before
    [outcome] = report["outcomes"]
    assert (outcome["run_id"], outcome["recorded"]["model"]) == (run["run_id"], run["result"]["model"])
    assert (outcome["replayed"]["status"], outcome["replayed"]["model"]) == ("success", "flotilla-extractive-1")
    assert "another answer" in outcome["difference"]
    assert (report["figures"]["shared_sources"], report["figures"]["blocked_calls"]) == (1.0, 0)
    assert report["figures"]["same_answer"] == 0.0
    assert report["recorded"]["amount_eur"] > report["figures"].get("amount_eur", 0.0)

    prompt = tmp_path / "prompt.txt"
    prompt.write_text("Answer in one word.")
    words = ("eval", "replay", session_id, "--model", "stub-next", "--prompt", f"write={prompt}", "--index", "live")
    again = llm_fleet.cli_json(*words)
    assert sum(stub_llm.requests().values()) == asked_before + 1
    assert again["figures"]["same_answer"] == 1.0
    broken = llm_fleet.cli(*words[:3], "--model", "flotilla-extractive-1", "--require", "same_answer>=1", check=False)
    assert (broken.returncode, "same_answer is 0" in broken.stderr) == (1, True)


async def test_a_replay_is_marked_in_log_api_and_spend_and_takes_no_other_question(
    llm_fleet: Fleet, unique: Callable[[str], str]
) -> None:
    run = await recorded(llm_fleet, unique("marked"))
    async with llm_fleet.client() as client:
        answer = await client.post(f"/v1/runs/{run['run_id']}/replays", json={"model": "stub-next"})
        assert answer.status_code == 202, answer.text
        replay = await finished(client, answer.json()["run_id"])
        assert (replay["status"], replay["replay_of"]) == ("success", run["run_id"]), replay
        session = (await client.get(f"/v1/sessions/{replay['session_id']}")).json()
        assert session["kind"] == "replay"
        events = await session_events(client, replay["session_id"])
        [started] = [one["data"]["details"] for one in events if one["data"].get("change") == "run_started"]
        assert (started["replay"]["of_run"], started["replay"]["model"]) == (run["run_id"], "stub-next")
        by_person = (await client.get("/v1/spend", params={"by": "person", "run_id": replay["run_id"]})).json()
        assert [row["name"] for row in by_person["spend"]] == ["replays"]
        more = await client.post(f"/v1/sessions/{replay['session_id']}/runs", json={"query": "And now?"})
        assert (more.status_code, "replay" in more.json()["detail"]) == (409, True)


async def test_who_may_not_read_the_session_replays_nothing_of_it(
    llm_fleet: Fleet, unique: Callable[[str], str]
) -> None:
    run = await recorded(llm_fleet, unique("private"))
    async with llm_fleet.client("bob") as bob:
        answer = await bob.post(f"/v1/runs/{run['run_id']}/replays", json={})
    assert answer.status_code == httpx.codes.NOT_FOUND, json.dumps(answer.json())
