"""What the console reads beyond the first routes: fleet, lineage, cited text, schemas of arguments."""

from itertools import pairwise

import asyncpg
import httpx
import pytest

from flotilla.actions.arguments import load_action_argument_types
from flotilla.bus import connect_redis, ensure_group
from flotilla.contracts.names import agent_group, task_stream
from gateway.governed.inbox import action_args_schema
from tests.support.gateway import RunningGateway
from tests.support.waiting import eventually

_AGENT = """
INSERT INTO flotilla_ops.agents (name, instance, version, stream, consumer_group, concurrency, in_flight, input_schema,
    output_schema, started_at, last_seen)
VALUES ('research', 'i', '1', 'flotilla.tasks.research', 'research-agents', 1, 0, '{}', '{}', now(), now())
"""
_LETTER = """
INSERT INTO flotilla.dead_letters (tenant_id, dead_letter_id, stream, consumer_group, entry_id, reason, error, attempts,
    body)
VALUES ('acme', 'l', 'flotilla.tasks.gone', 'g', '1-1', 'r', 'e', 1, '')
"""
_APPROVAL = """
INSERT INTO flotilla.approvals (tenant_id, approval_id, session_id, workflow_id, action, description, args,
    content_hash, risk_level, reasons, requested_by, requirement, policy_version, quorum, deadline_at, status,
    decided_at, created_at)
SELECT 'acme', 'a' || n, 's', 'w', 'echo', 'd', '{}', 'h', 'low', '{}', 'olga',
    '{"required": true, "risk_level": "low", "reasons": [], "policy_version": "1"}', '1', 1,
    now() - n * interval '1 minute', CASE WHEN n = 3 THEN 'approved' ELSE 'pending' END,
    CASE WHEN n = 3 THEN now() END, now() - interval '5 minutes'
FROM generate_series(1, 3) AS n
"""


async def as_superuser(gateway: RunningGateway, *statements: str) -> None:
    connection = await asyncpg.connect(gateway.database.superuser_dsn)
    try:
        for statement in statements:
            await connection.execute(statement)
    finally:
        await connection.close()


@pytest.fixture
async def busy(gateway: RunningGateway, redis_url: str) -> RunningGateway:
    """Two entries for the research agent, one of them in hand; a dead letter; three approvals, one decided."""
    session = "INSERT INTO flotilla.sessions (tenant_id, session_id, user_id) VALUES ('acme', 's', 'olga')"
    await as_superuser(gateway, session, _AGENT, _LETTER, _APPROVAL)
    stream, group = task_stream("research"), agent_group("research")
    async with connect_redis(redis_url) as redis:
        await ensure_group(redis, stream, group)
        for _ in range(2):
            await redis.xadd(stream, {"event": b"{}"})
        await redis.xreadgroup(group, "c", {stream: ">"}, count=1)
    return gateway


async def test_the_fleet_shows_what_piles_up(busy: RunningGateway) -> None:
    fleet = (await (await busy.client_of("victor", "viewer")).get("/v1/fleet")).json()
    research = next(one for one in fleet["streams"] if one["stream"] == "flotilla.tasks.research")
    assert (research["group"], research["lag"], research["pending"]) == ("research-agents", 1, 1)
    assert 0 <= research["oldest_pending_s"] < 120
    gone = next(one for one in fleet["streams"] if one["stream"] == "flotilla.tasks.gone")
    assert (gone["dead_letters"], gone["lag"]) == (1, None)
    assert fleet["outbox"] == {"backlog_rows": 0, "oldest_unpublished_s": 0.0, "parked": 0}
    assert fleet["audit"] == {"lag_events": 0, "checkpoint_age_s": None, "parked_sessions": 0}
    assert (fleet["approvals_pending"], fleet["parked_orders"], fleet["runs_active"]) == (2, 0, 0)
    stranger = (await (await busy.client_of("eve", "viewer", tenant="globex")).get("/v1/fleet")).json()
    assert (stranger["approvals_pending"], sum(one["dead_letters"] for one in stranger["streams"])) == (0, 0)


async def test_the_fleets_history_has_one_value_for_each_moment(busy: RunningGateway) -> None:
    client = await busy.client_of("victor", "viewer")

    async def sampled() -> dict[str, object] | None:
        found: dict[str, object] = (await client.get("/v1/fleet/history")).json()
        return found if found["series"]["outbox_backlog"][-1] is not None else None  # type: ignore[index]

    history = await eventually(sampled, timeout_s=30)
    assert history["step_s"] == 15
    series = history["series"]
    assert isinstance(series, dict)
    assert set(series) == {
        "stream_lag", "stream_pending", "outbox_backlog", "audit_lag", "runs_finished", "approvals_pending",
    }  # fmt: skip
    assert {len(values) for values in series.values()} == {len(history["times"])}  # type: ignore[arg-type]
    assert set(series["outbox_backlog"]) == {None, 0}


async def test_the_fleets_history_is_an_hour_also_at_a_gateway_that_was_just_started(busy: RunningGateway) -> None:
    history = (await (await busy.client_of("victor", "viewer")).get("/v1/fleet/history")).json()
    times = history["times"]
    assert times[-1] - times[0] == pytest.approx(3600, abs=60)
    assert all(0 < later - earlier < 60 for earlier, later in pairwise(times))
    # The tenant's own rows are known, no matter who was running then.
    assert None not in history["series"]["approvals_pending"]
    assert max(history["series"]["approvals_pending"]) == 3


async def test_the_inbox_comes_by_deadline_where_that_is_asked(busy: RunningGateway) -> None:
    client = await busy.client_of("victor", "viewer")

    async def page(cursor: str | None) -> dict[str, object]:
        params = {"order": "deadline", "limit": "1", **({"cursor": cursor} if cursor else {})}
        found: dict[str, object] = (await client.get("/v1/approvals", params=params)).json()
        return found

    seen, cursor = [], None
    for _ in range(3):
        answer = await page(cursor)
        seen += [one["approval_id"] for one in answer["approvals"]]  # type: ignore[attr-defined]
        cursor = str(answer["next_cursor"])
    assert seen == ["a3", "a2", "a1"]


async def test_an_approval_says_what_its_arguments_may_be_and_whether_the_asker_may_vote(busy: RunningGateway) -> None:
    approval = (await (await busy.client_of("victor", "viewer")).get("/v1/approvals/a1")).json()
    assert approval["exclude_requester"] is True
    assert approval["args_schema"]["properties"] == {"text": {"title": "Text", "type": "string"}}
    assert approval["args_schema"]["required"] == ["text"]


def test_every_built_in_action_has_a_schema() -> None:
    for action in load_action_argument_types():
        schema = action_args_schema(action)
        assert schema is not None
        assert schema["type"] == "object"
    assert action_args_schema("an agent's tool") is None


@pytest.mark.parametrize(
    ("uri", "content_type", "fields"),
    [
        ("a.html", "text/html; charset=windows-1251", {}),
        ("a.html", 'text/html;charset="cp1251"', {}),
        ("a.html", "application/octet-stream; charset=windows-1251", {}),
        ("a.html", "text/html", {"media_type": "text/html; charset=windows-1251"}),
    ],
)
async def test_a_document_is_read_in_the_charset_of_its_content_type(
    operator: httpx.AsyncClient, uri: str, content_type: str, fields: dict[str, str]
) -> None:
    content = "<p>Ключ от склада".encode("cp1251")
    added = await operator.post("/v1/documents", files={"file": (uri, content, content_type)}, data=fields)
    assert added.status_code == 201, added.text
    read = (await operator.get(f"/v1/documents/{added.json()['document_id']}")).json()
    assert (read["text"], read["media_type"]) == ("Ключ от склада", "text/html")


async def test_a_cited_passage_is_found_in_the_documents_text(operator: httpx.AsyncClient) -> None:
    text = "# Harbour\n\nDiesel is sold at pontoon Ç, daily.\n"
    added = await operator.post("/v1/documents", files={"file": ("a.md", text.encode(), "text/markdown")})
    found = (await operator.get("/v1/documents/search", params={"q": "diesel", "k": 1})).json()["passages"][0]
    document = (await operator.get(f"/v1/documents/{added.json()['document_id']}")).json()
    source = found["source"]
    assert document["text"][source["start"] : source["end"]] == found["text"]
    assert (document["uri"], document["title"]) == ("a.md", "Harbour")
    assert (await operator.get("/v1/documents/none")).status_code == 404


async def test_lineage_is_the_whole_tree_from_its_root(operator: httpx.AsyncClient, gateway: RunningGateway) -> None:
    for session_id in ("root", "alone"):
        await operator.post("/v1/sessions", json={"session_id": session_id})
    for parent, child in (("root", "left"), ("root", "right"), ("left", "leaf")):
        answer = await operator.post(f"/v1/sessions/{parent}/fork", json={"at_seq": 0, "session_id": child})
        assert answer.status_code == 201, answer.text
    for asked in ("root", "leaf", "right"):
        tree = (await operator.get(f"/v1/sessions/{asked}/lineage")).json()["sessions"]
        assert [(one["session_id"], one["parent_session_id"]) for one in tree] == [
            ("root", None), ("left", "root"), ("right", "root"), ("leaf", "left"),
        ]  # fmt: skip
    alone = (await operator.get("/v1/sessions/alone/lineage")).json()["sessions"]
    assert [one["session_id"] for one in alone] == ["alone"]
    assert (await operator.get("/v1/sessions/none/lineage")).status_code == 404
    stranger = await gateway.client_of("eve", "viewer", tenant="globex")
    assert (await stranger.get("/v1/sessions/root/lineage")).status_code == 404


async def test_sessions_are_found_by_a_part_of_their_id_and_runs_by_who_asked(
    operator: httpx.AsyncClient, gateway: RunningGateway
) -> None:
    for session_id in ("Harbour-1", "handbook"):
        await operator.post("/v1/sessions", json={"session_id": session_id})
    found = (await operator.get("/v1/sessions", params={"q": "HARB"})).json()["sessions"]
    assert [one["session_id"] for one in found] == ["Harbour-1"]
    assert (await operator.get("/v1/sessions", params={"q": "%"})).json()["sessions"] == []
    other = await gateway.client_of("carol", "operator")
    await operator.patch("/v1/sessions/handbook/access", json={"visibility": "tenant"})
    for client, session_id in ((operator, "Harbour-1"), (other, "handbook")):
        assert (await client.post(f"/v1/sessions/{session_id}/runs", json={"query": "q"})).status_code == 202
    runs = (await operator.get("/v1/runs", params={"user_id": "carol"})).json()["runs"]
    assert [run["session_id"] for run in runs] == ["handbook"]
    steps = (await operator.get(f"/v1/runs/{runs[0]['run_id']}/steps")).json()
    assert steps["trace_id"] is None or len(steps["trace_id"]) == 32
