"""Second messages into active sessions, under kill -9 of each service: order kept, none lost, none doubled."""

import asyncio
from collections import Counter
from collections.abc import Callable, Iterator

import httpx
import pytest

from tests.e2e.fleet import Fleet, finished, session_events
from tests.support.waiting import eventually

MESSAGES = 200
SESSIONS = 10
VICTIMS = ("gateway", "workflow-worker", "research-agent", "workflow-worker", "gateway", "writer-agent", "outbox-relay")


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    started = Fleet(tmp_path_factory.mktemp("queue-fleet"), {"OPENAI_API_KEY": ""})
    try:
        started.up()
        yield started
    finally:
        started.down()


async def send(client: httpx.AsyncClient, session_id: str, text: str, policy: str) -> str:
    """Return the id of the message's run: asked again under the same key until a gateway answers."""

    async def accepted() -> str | None:
        try:
            answer = await client.post(
                f"/v1/sessions/{session_id}/runs",
                json={"query": text, "if_active": policy},
                headers={"Idempotency-Key": text.replace(" ", "-")},
            )
        except httpx.TransportError:
            return None
        assert answer.is_success or answer.status_code in (429, 503), answer.text
        return answer.json()["run_id"] if answer.is_success else None

    run_id: str = await eventually(accepted, timeout_s=120, every_s=0.3)
    return run_id


@pytest.mark.chaos
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("policy", ["enqueue", "interrupt", "rollback"])
async def test_messages_into_active_sessions_under_kill_9_keep_their_order_and_count_once(
    fleet: Fleet, unique: Callable[[str], str], policy: str
) -> None:
    async with fleet.client("admin") as client:
        names = [unique("s") for _ in range(SESSIONS)]

        async def converse(session_id: str) -> list[str]:
            texts = [f"{session_id} message {n}" for n in range(MESSAGES // SESSIONS)]
            return [await send(client, session_id, text, policy) for text in texts]

        talking = [asyncio.create_task(converse(name)) for name in names]
        for victim in VICTIMS:
            await fleet.kill(victim)
        runs_of = dict(zip(names, await asyncio.gather(*talking), strict=True))
        for session_id, run_ids in runs_of.items():
            runs = [await finished(client, run_id, timeout_s=900) for run_id in run_ids]
            ends = Counter(run["status"] for run in runs)
            assert set(ends) <= ({"success"} if policy == "enqueue" else {"success", "cancelled"}), ends
            assert runs[-1]["status"] == "success"
            events = await session_events(client, session_id)
            begun = [event["runid"] for event in events if event["data"].get("change") == "run_started"]
            ended = [event["runid"] for event in events if event["data"].get("change") == "run_finished"]
            assert begun == ended == run_ids
            asked = [event["data"]["content"] for event in events if event["data"].get("role") == "user"]
            assert asked == [f"{session_id} message {n}" for n in range(len(run_ids))]
