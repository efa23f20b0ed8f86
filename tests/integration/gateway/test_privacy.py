"""Erasure of a person: who may ask and confirm, what it ends, and what is left for readers."""

import asyncio
import secrets
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import asyncpg
import httpx
import pytest
from temporalio.client import Client

from flotilla.contracts.identity import user_name
from flotilla.postgres import Connection, Pool, open_pool, tenant_transaction
from tests.integration.gateway.conftest import Gate, Replica, answering
from tests.support.encryption import key_file
from tests.support.gateway import RunningGateway
from tests.support.waiting import eventually
from workflow_worker import erasures
from workflow_worker.erasures import ErasureDuty

__all__ = ["key_file"]
ADA = user_name("flotilla", "ada")
UNFINISHED = "SELECT * FROM flotilla.unfinished_erasures(10)"


@pytest.fixture
async def encrypting(replica: Replica, key_file: Path) -> AsyncIterator[RunningGateway]:
    """A replica that encrypts."""
    async with replica(encryption="on", encryption_key_file=key_file) as running:
        yield running


async def asked_for(gateway: RunningGateway, subject: str = "ada") -> str:
    """An erasure that one admin asked for."""
    one = await gateway.client_of("otto", "admin", person=True)
    answer = await one.post("/v1/privacy/erasures", json={"subject": subject, "reason": "request 17"})
    assert answer.status_code == 202, answer.text
    return str(answer.json()["erasure_id"])


async def confirmed(gateway: RunningGateway, subject: str = "ada") -> str:
    erasure_id = await asked_for(gateway, subject)
    other = await gateway.client_of("petra", "admin", person=True)
    answer = await other.post(f"/v1/privacy/erasures/{erasure_id}/confirm")
    assert answer.status_code == 202, answer.text
    return erasure_id


async def events(client: Any, session: str) -> list[dict[str, Any]]:
    return list((await client.get(f"/v1/sessions/{session}/events")).json()["events"])


async def test_an_erasure_ends_runs_and_leaves_marks(
    encrypting: RunningGateway,
    *,
    redis_url: str,
    temporal_address: str,
    gate: Gate,
    key_file: Path,
    unique: Callable[[str], str],
) -> None:
    canary, session = secrets.token_hex(16), unique("s")
    ada = await encrypting.client_of("ada", "operator", person=True)
    keys: dict[str, Any] = {"encryption": "on", "encryption_key_file": key_file}
    async with answering(encrypting, redis_url, temporal_address, gate, **keys):
        started = await ada.post(f"/v1/sessions/{session}/runs", json={"query": f"Who is {canary}?"})
        assert canary in (await ada.get(f"/v1/sessions/{session}/events")).text
        erasure_id = await confirmed(encrypting)
        admin = await encrypting.client_of("otto", "admin", person=True)

        async def finished() -> bool:
            return bool((await admin.get(f"/v1/privacy/erasures/{erasure_id}")).json()["finished_at"])

        await eventually(finished, 60)
        run = await ada.get(f"/v1/runs/{started.json()['run_id']}")
    assert run.json()["status"] == "cancelled"
    shown = await events(ada, session)
    assert canary not in str(shown)
    assert [event["data"]["content"] for event in shown if "content" in event["data"]] == ["[erased]"]
    changes = [event["data"] for event in shown if event["data"].get("change") == "subject_erased"]
    assert [change["details"]["erasure_id"] for change in changes] == [erasure_id]
    state = await ada.get(f"/v1/sessions/{session}/state")
    assert [message["content"] for message in state.json()["messages"]] == ["[erased]"]


async def test_it_takes_a_second_person(encrypting: RunningGateway, unique: Callable[[str], str]) -> None:
    ada = await encrypting.client_of("ada", "operator", person=True)
    session = unique("s")
    await ada.post(f"/v1/sessions/{session}/runs", json={"query": "Why?"})
    erasure_id = await asked_for(encrypting)
    path = f"/v1/privacy/erasures/{erasure_id}/confirm"
    one = await encrypting.client_of("otto", "admin", person=True)
    service = await encrypting.client_of("robot", "admin")
    stranger = await encrypting.client_of("eve", "admin", tenant="globex", person=True)
    assert [(await who.post(path)).status_code for who in (one, service, stranger)] == [403, 403, 404]
    assert "Why?" in str(await events(ada, session))
    other = await encrypting.client_of("petra", "admin", person=True)
    assert [(await other.post(path)).status_code for _ in range(2)] == [202, 409]
    assert "Why?" not in str(await events(ada, session))


@pytest.mark.parametrize("asks_first", ["maker", "made"])
async def test_an_admin_is_no_second_person_by_a_key_that_they_issued(
    encrypting: RunningGateway, unique: Callable[[str], str], asks_first: str
) -> None:
    ada = await encrypting.client_of("ada", "operator", person=True)
    session = unique("s")
    await ada.post(f"/v1/sessions/{session}/runs", json={"query": "Why?"})
    maker = await encrypting.client_of("otto", "admin", person=True)
    key = await maker.post("/v1/keys", json={"name": "puppet", "roles": ["admin"], "person": True})
    made = encrypting.client(key.json()["key"])
    first, second = (maker, made) if asks_first == "maker" else (made, maker)
    asked = await first.post("/v1/privacy/erasures", json={"subject": "ada", "reason": "request 17"})
    path = f"/v1/privacy/erasures/{asked.json()['erasure_id']}/confirm"
    refused = await second.post(path)
    assert (refused.status_code, "issued a key of puppet" in refused.text) == (403, True), refused.text
    assert "Why?" in str(await events(ada, session))
    other = await encrypting.client_of("petra", "admin", person=True)
    assert (await other.post(path)).status_code == 202


async def test_an_erasure_without_a_key_to_destroy_is_refused(replica: Replica, unique: Callable[[str], str]) -> None:
    async with replica() as clear:
        ada = await clear.client_of("ada", "operator", person=True)
        await ada.post(f"/v1/sessions/{unique('s')}/runs", json={"query": "Why?"})
        admin = await clear.client_of("otto", "admin", person=True)
        refused = await admin.post("/v1/privacy/erasures", json={"subject": "ada", "reason": "request 17"})
        assert (refused.status_code, "nothing of" in refused.text) == (409, True), refused.text
        assert (await admin.get("/v1/privacy/erasures")).json()["erasures"] == []


async def test_a_legal_hold_refuses_with_its_reason(encrypting: RunningGateway, unique: Callable[[str], str]) -> None:
    ada = await encrypting.client_of("ada", "operator", person=True)
    session = unique("s")
    await ada.post(f"/v1/sessions/{session}/runs", json={"query": "Why?"})
    erasure_id = await asked_for(encrypting)
    admin = await encrypting.client_of("petra", "admin", person=True)
    body = {"subject": "ada", "reason": "case 4 O 17"}
    assert [(await admin.post("/v1/privacy/holds", json=body)).status_code for _ in range(2)] == [201, 409]
    for path, sent in ((f"/v1/privacy/erasures/{erasure_id}/confirm", None), ("/v1/privacy/erasures", body)):
        refused = await admin.post(path, json=sent)
        assert (refused.status_code, "case 4 O 17" in refused.text) == (409, True)
    assert "Why?" in str(await events(ada, session))
    assert [hold["person"] for hold in (await admin.get("/v1/privacy/holds")).json()["holds"]] == [ADA]
    assert (await admin.delete("/v1/privacy/holds", params={"subject": "ada"})).status_code == 204
    assert (await admin.post(f"/v1/privacy/erasures/{erasure_id}/confirm")).status_code == 202


async def test_a_hold_that_comes_while_a_confirmation_waits_wins(
    encrypting: RunningGateway, unique: Callable[[str], str]
) -> None:
    ada = await encrypting.client_of("ada", "operator", person=True)
    session = unique("s")
    await ada.post(f"/v1/sessions/{session}/runs", json={"query": "Why?"})
    erasure_id = await asked_for(encrypting)
    admin = await encrypting.client_of("petra", "admin", person=True)
    connection = await asyncpg.connect(encrypting.database.superuser_dsn)
    try:
        async with connection.transaction():
            # As a session does that gets its key at this moment.
            await connection.execute("SELECT FROM flotilla.person_keys WHERE person = $1 FOR KEY SHARE", ADA)
            await connection.execute("INSERT INTO flotilla.legal_holds VALUES ('acme', $1, 'case 4 O 17', 'otto')", ADA)
            confirming = asyncio.create_task(admin.post(f"/v1/privacy/erasures/{erasure_id}/confirm"))
            await eventually(partial(waiting_for_a_lock, encrypting))
        refused = await confirming
    finally:
        await connection.close()
    assert (refused.status_code, "case 4 O 17" in refused.text) == (409, True), refused.text
    assert "Why?" in str(await events(ada, session))


async def test_a_hold_waits_for_a_confirmation_that_came_first(
    encrypting: RunningGateway, unique: Callable[[str], str]
) -> None:
    ada = await encrypting.client_of("ada", "operator", person=True)
    session = unique("s")
    await ada.post(f"/v1/sessions/{session}/runs", json={"query": "Why?"})
    erasure_id = await asked_for(encrypting)
    admin = await encrypting.client_of("petra", "admin", person=True)
    body = {"subject": "ada", "reason": "case 4 O 17"}
    async with tenant_transaction(encrypting.pool, "acme") as connection:
        await connection.execute("SELECT flotilla_ops.lock_person('acme', $1)", ADA)  # as `confirm_erasure` does
        adding = asyncio.create_task(admin.post("/v1/privacy/holds", json=body))
        await eventually(partial(waiting_for_a_lock, encrypting))
    assert (await adding).status_code == 201
    refused = await admin.post(f"/v1/privacy/erasures/{erasure_id}/confirm")
    assert refused.status_code == 409


async def waiting_for_a_lock(gateway: RunningGateway, at_least: int = 1) -> bool:
    """Whether so many statements of this database wait for a lock."""
    connection = await asyncpg.connect(gateway.database.superuser_dsn)
    try:
        waiting: int = await connection.fetchval(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
        )
        return waiting >= at_least
    finally:
        await connection.close()


async def test_the_policy_says_how_many_people_confirm(
    replica: Replica, key_file: Path, tmp_path: Path, unique: Callable[[str], str]
) -> None:
    policy = tmp_path / "policy.toml"
    policy.write_text('extends = "builtin:production"\nversion = "1"\n[privacy]\nerase = 2\n')
    async with replica(encryption="on", encryption_key_file=key_file, approval_policy=str(policy)) as gateway:
        ada = await gateway.client_of("ada", "operator", person=True)
        session = unique("s")
        await ada.post(f"/v1/sessions/{session}/runs", json={"query": "Why?"})
        path = f"/v1/privacy/requests/{await asked_for(gateway)}"
        petra, paul = [await gateway.client_of(name, "admin", person=True) for name in ("petra", "paul")]
        assert [(await petra.post(f"{path}/confirm")).status_code for _ in range(2)] == [202, 409]
        waiting = (await petra.get(path)).json()
        assert (waiting["confirmations"], waiting["confirmations_needed"]) == (["petra"], 2)
        assert (waiting["kind"], waiting["confirmed_at"]) == ("erase", None)
        assert "Why?" in str(await events(ada, session))
        assert (await paul.post(f"{path}/confirm")).status_code == 202
        assert "Why?" not in str(await events(ada, session))
        recorded = await events(petra, "flotilla:audit")
        confirmed = [e["data"]["details"] for e in recorded if e["data"].get("change") == "privacy_erasure_confirmed"]
        assert [(one["by"], one["missing"]) for one in confirmed] == [("petra", 1), ("paul", 0)]


async def test_two_who_are_one_by_their_keys_do_not_confirm_at_the_same_time(
    replica: Replica, key_file: Path, tmp_path: Path, unique: Callable[[str], str]
) -> None:
    policy = tmp_path / "policy.toml"
    policy.write_text('extends = "builtin:production"\nversion = "1"\n[privacy]\nerase = 2\n')
    async with replica(encryption="on", encryption_key_file=key_file, approval_policy=str(policy)) as gateway:
        ada = await gateway.client_of("ada", "operator", person=True)
        await ada.post(f"/v1/sessions/{unique('s')}/runs", json={"query": "Why?"})
        path = f"/v1/privacy/requests/{await asked_for(gateway)}"
        petra = await gateway.client_of("petra", "admin", person=True)
        made = await petra.post("/v1/keys", json={"name": "puppet", "roles": ["admin"], "person": True})
        puppet = gateway.client(made.json()["key"])
        connection = await asyncpg.connect(gateway.database.superuser_dsn)
        try:
            async with connection.transaction():
                await connection.execute("SELECT FROM flotilla.erasures FOR UPDATE")
                both = [asyncio.create_task(who.post(f"{path}/confirm")) for who in (petra, puppet)]
                await eventually(partial(waiting_for_a_lock, gateway, 2))
            answers = sorted([(await answer).status_code for answer in both])
        finally:
            await connection.close()
        assert (answers, len((await petra.get(path)).json()["confirmations"])) == ([202, 403], 1)


async def sessions_to_erase(gateway: RunningGateway, owner: httpx.AsyncClient, names: list[str]) -> list[str]:
    """Sessions with one finished run each, whose owner's erasure is confirmed; in order of their names."""
    for session in names:
        run_id = (await owner.post(f"/v1/sessions/{session}/runs", json={"query": "Why?"})).json()["run_id"]
        await gateway.finish(run_id)
    await confirmed(gateway)
    return sorted(names)


async def test_sessions_that_are_stuck_keep_no_others_waiting(
    encrypting: RunningGateway, temporal_client: Client, unique: Callable[[str], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    ada = await encrypting.client_of("ada", "operator", person=True)
    sessions = await sessions_to_erase(encrypting, ada, [unique("s") for _ in range(4)])
    record = erasures._record_erasure_in_session

    async def broken(connection: Connection, tenant_id: str, erasure_id: str, session_id: str) -> None:
        if session_id in sessions[:2]:
            raise RuntimeError("this session fails")
        await record(connection, tenant_id, erasure_id, session_id)

    monkeypatch.setattr(erasures, "_record_erasure_in_session", broken)
    monkeypatch.setattr(erasures, "ERASURE_BATCH_SIZE", 2)  # no more than are stuck
    async with open_pool(encrypting.database.dsn("flotilla_worker"), application="test") as pool:
        duty = ErasureDuty(pool)
        for _ in range(2):
            await duty.run_once()
        assert {row["session_id"] for row in await pool.fetch(UNFINISHED)} == set(sessions[:2])


async def test_an_erasure_takes_calls_of_mcp_clients_with_it(
    encrypting: RunningGateway, unique: Callable[[str], str]
) -> None:
    ada = await encrypting.client_of("ada", "operator", person=True)
    hers, others = unique("s"), unique("o")
    await ada.post(f"/v1/sessions/{hers}/runs", json={"query": "Why?"})
    bob = await encrypting.client_of("bob", "operator", person=True)
    await bob.post(f"/v1/sessions/{others}/runs", json={"query": "Why?"})
    for session, who in ((hers, "ada"), (others, "bob")):
        await encrypting.as_superuser(
            "INSERT INTO flotilla.mcp_calls (tenant_id, call_id, is_run, session_id, principal, digest) "
            f"VALUES ('acme', '{session}', true, '{session}', '{who}', 'x')"
        )
    await confirmed(encrypting)
    assert [row["session_id"] for row in await encrypting.rows("SELECT session_id FROM flotilla.mcp_calls")] == [others]


async def test_a_plan_counts_and_changes_nothing(encrypting: RunningGateway, unique: Callable[[str], str]) -> None:
    ada = await encrypting.client_of("ada", "operator", person=True)
    session = unique("s")
    await ada.post(f"/v1/sessions/{session}/runs", json={"query": "Why?"})
    await ada.post("/v1/sessions", json={"session_id": unique("empty")})
    admin = await encrypting.client_of("otto", "admin", person=True)
    plan = (await admin.get("/v1/privacy/plan", params={"subject": "ada"})).json()
    assert plan == {
        "person": ADA,
        "encrypted_sessions": 1,
        "clear_sessions": 1,
        "open_runs": 1,
        "held_for": None,
        "other_open_work": 0,
        "schedules": 0,
    }
    assert "Why?" in str(await events(ada, session))
    nobody = await admin.post("/v1/privacy/erasures", json={"subject": "nobody", "reason": "r"})
    assert nobody.status_code == 404


@pytest.mark.parametrize("commits", range(4))
async def test_an_erasure_ends_wherever_the_worker_is_killed(
    encrypting: RunningGateway,
    *,
    key_file: Path,
    temporal_client: Client,
    unique: Callable[[str], str],
    monkeypatch: pytest.MonkeyPatch,
    commits: int,
) -> None:
    ada = await encrypting.client_of("ada", "operator", person=True)
    sessions = [unique("s") for _ in range(2)]
    for session in sessions:
        run_id = (await ada.post(f"/v1/sessions/{session}/runs", json={"query": "Why?"})).json()["run_id"]
        await encrypting.finish(run_id)
    await confirmed(encrypting)
    async with open_pool(encrypting.database.dsn("flotilla_worker"), application="test") as pool:
        duty = ErasureDuty(pool)
        with monkeypatch.context() as patch:
            patch.setattr(erasures, "tenant_transaction", killed_after(commits))
            if commits < 3:
                with pytest.raises(Killed):
                    await duty.run_once()
        await duty.run_once()
    async with open_pool(encrypting.database.dsn("flotilla_worker"), application="test") as pool:
        assert await pool.fetch(UNFINISHED) == []
    for session in sessions:
        changes = [event["data"].get("change") for event in await events(ada, session)]
        assert changes.count("subject_erased") == 1


async def test_a_session_that_fails_keeps_no_other_waiting(
    encrypting: RunningGateway, temporal_client: Client, unique: Callable[[str], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    ada = await encrypting.client_of("ada", "operator", person=True)
    sessions = await sessions_to_erase(encrypting, ada, [unique("s") for _ in range(2)])
    record = erasures._record_erasure_in_session

    async def broken(connection: Connection, tenant_id: str, erasure_id: str, session_id: str) -> None:
        if session_id == sessions[0]:
            raise RuntimeError("this session fails")
        await record(connection, tenant_id, erasure_id, session_id)

    async with open_pool(encrypting.database.dsn("flotilla_worker"), application="test") as pool:
        duty = ErasureDuty(pool)
        with monkeypatch.context() as patch:
            patch.setattr(erasures, "_record_erasure_in_session", broken)
            await duty.run_once()
        assert [row["session_id"] for row in await pool.fetch(UNFINISHED)] == [sessions[0]]
        await duty.run_once()
        assert await pool.fetch(UNFINISHED) == []


class Killed(BaseException):
    """Ends what the duty does, as the end of the process would: nothing catches it."""


def killed_after(commits: int) -> Any:
    """`tenant_transaction`, but that the process ends after so many commits."""
    left = commits

    @asynccontextmanager
    async def dying(pool: Pool, tenant_id: str) -> AsyncIterator[Connection]:
        nonlocal left
        async with tenant_transaction(pool, tenant_id) as connection:
            yield connection
            if left == 0:
                raise Killed
        left -= 1

    return dying
