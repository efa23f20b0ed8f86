"""What an agent's process is worth to who takes it over: the keys of the sessions whose tasks it holds, and no other.

The thief has its settings, its role in the database, its registered key pair, and every ticket that it ever saw.
"""

import asyncio
import secrets
from base64 import b64encode
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import asyncpg
import httpx
import pytest
from prometheus_client import REGISTRY
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from flotilla.agent import AgentSettings
from flotilla.contracts.envelope import from_json, to_json
from flotilla.contracts.errors import RetryLater, Undecodable
from flotilla.contracts.session_keys import SESSION_KEYS_PATH, SessionKeyAsked
from flotilla.contracts.tasks import AgentTask
from flotilla.encryption import (
    ERASED,
    Cipher,
    DataKey,
    KeyFile,
    Keyring,
    is_readable,
    opened_columns,
    opened_key,
    sealed_columns,
    sealed_key,
    with_proof,
)
from flotilla.encryption.tables import INTERACTIONS
from flotilla.postgres import Pool, TaskProof, acting_for_task, open_pool, tenant_transaction, writing_cipher
from flotilla.runtime import http_server
from tests.support.agents import delegate, open_session, task
from tests.support.postgres import Database
from tests.support.session_keys import AgentProcess, agent_process, issuing, serving
from tests.support.waiting import eventually

SAID = "the words of a person"
TOO_MANY = "too many processes ask for keys of sessions at once"
MINE, HERS, THEIRS = ("default", "mine"), ("default", "hers"), ("acme", "theirs")


@dataclass(frozen=True)
class House:
    """Three people's sessions with one stored answer each, as ciphertext; the thief's agent has a task in one."""

    pool: Pool
    url: str
    thief: AgentProcess
    held: AgentTask
    other: AgentTask
    """Open, of another agent, in the session of somebody else."""
    stored: Mapping[tuple[str, str], str]
    key_file: Path

    async def read(self, place: tuple[str, str], proof: TaskProof | None, process: AgentProcess | None = None) -> str:
        """What the process makes of what is stored in that session, with this ticket."""
        tenant_id, session_id = place
        process = process or self.thief
        process.keyring.forget()
        with acting_for_task(proof):
            async with process.pool.acquire() as connection:
                ciphers = await process.keyring.reading(connection, tenant_id, [session_id])
        return opened(ciphers[session_id], session_id, self.stored[place])


def opened(cipher: Cipher | None, session_id: str, stored: str) -> str:
    row = {"interaction_id": session_id, "query": stored}
    return str(opened_columns(cipher, INTERACTIONS, row)["query"])


def proof(held: AgentTask, **changed: Any) -> TaskProof:
    return TaskProof(**{"task_id": held.task_id, "attempt": held.attempt, "secret": held.secret, **changed})


async def said_in(pool: Pool, tenant_id: str, session_id: str) -> str:
    """Open a session with a key of its own; return what was said, as ciphertext."""
    await open_session(pool, session_id, tenant_id)
    async with tenant_transaction(pool, tenant_id) as connection:
        await connection.execute(
            "UPDATE flotilla.sessions SET user_id = $2, owner = 'user/flotilla/' || $2 WHERE session_id = $1",
            session_id,
            f"person-{session_id}",
        )
        cipher = await writing_cipher(connection, tenant_id, session_id)
    return str(sealed_columns(cipher, INTERACTIONS, session_id, {"query": SAID})["query"])


@pytest.fixture
async def house(sealing: Pool, key_file: Path) -> AsyncIterator[House]:
    stored = {place: await said_in(sealing, *place) for place in (MINE, HERS, THEIRS)}
    held = task("t1", session_id="mine", secret=secrets.token_urlsafe(32))
    other = task("t9", "research", session_id="hers", secret=secrets.token_urlsafe(32))
    await delegate(sealing, held, other)
    async with issuing(sealing, key_file) as url, agent_process(sealing, url) as thief:
        yield House(sealing, url, thief, held, other, stored, key_file)


async def test_the_key_of_the_session_whose_task_is_held_is_issued_and_opens_no_other(house: House) -> None:
    mine = proof(house.held)
    assert await house.read(MINE, mine) == SAID
    for place in (HERS, THEIRS):
        assert not is_readable(await house.read(place, mine))
    with acting_for_task(mine):
        async with house.thief.pool.acquire() as connection:
            own = (await house.thief.keyring.reading(connection, *MINE[:1], [MINE[1]]))[MINE[1]]
    for place in (HERS, THEIRS):
        assert not is_readable(opened(own, place[1], house.stored[place])), "the key that it has opens no other"


@pytest.mark.parametrize(
    "changed",
    [{"secret": "guessed"}, {"secret": ""}, {"attempt": 2}, {"attempt": -1}, {"task_id": "t9"}, {"task_id": "t1~1"}],
    ids=lambda changed: "-".join(map(str, *changed.items())),
)
async def test_no_key_is_issued_for_a_ticket_that_is_not_one(house: House, changed: dict[str, Any]) -> None:
    for place in (MINE, HERS, THEIRS):
        assert not is_readable(await house.read(place, proof(house.held, **changed)))


async def test_a_stolen_ticket_of_another_agent_opens_nothing(house: House) -> None:
    assert not is_readable(await house.read(HERS, proof(house.other)))
    async with agent_process(house.pool, house.url, "research") as research:
        assert await house.read(HERS, proof(house.other), research) == SAID, "the agent itself gets the key"
        assert not is_readable(await house.read(MINE, proof(house.held), research))


async def test_the_tool_gateway_gets_the_key_of_the_task_that_asks_it_for_a_call(house: House) -> None:
    async with agent_process(house.pool, house.url, "mcp") as tool_gateway:
        assert await house.read(MINE, proof(house.held), tool_gateway) == SAID
        assert not is_readable(await house.read(HERS, proof(house.held), tool_gateway))
        assert not is_readable(await house.read(MINE, proof(house.held, secret="guessed"), tool_gateway))


async def test_a_key_pair_counts_for_the_agent_that_registered_it_with_its_own_role(house: House) -> None:
    async with agent_process(house.pool, house.url, registers=False) as fresh:
        assert not is_readable(await house.read(MINE, proof(house.held), fresh))
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await fresh.register("research")
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await fresh.register("mcp")
        assert not is_readable(await house.read(HERS, proof(house.other), fresh))


@pytest.mark.parametrize("state", ["done", "failed", "cancelled"])
async def test_a_task_that_is_over_opens_nothing(house: House, state: str) -> None:
    async with tenant_transaction(house.pool, "default") as connection:
        await connection.execute("UPDATE flotilla.delegations SET state = $1 WHERE task_id = 't1'", state)
    assert not is_readable(await house.read(MINE, proof(house.held)))


async def test_a_destroyed_key_is_issued_no_more(house: House, database: Database) -> None:
    mine = proof(house.held)
    assert await house.read(MINE, mine) == SAID
    owner = await asyncpg.connect(database.superuser_dsn)
    try:
        await owner.execute("UPDATE flotilla.person_keys SET wrapped_key = NULL, erased_at = now()")
    finally:
        await owner.close()
    assert await house.read(MINE, mine) == ERASED, "by a worker that has just issued it"
    async with issuing(house.pool, house.key_file) as fresh, agent_process(house.pool, fresh) as process:
        assert await house.read(MINE, mine, process) == ERASED


async def test_a_process_that_is_gone_for_an_hour_gets_no_key(house: House) -> None:
    async with tenant_transaction(house.pool, "default") as connection:
        await connection.execute("UPDATE flotilla_ops.agents SET last_seen = now() - interval '61 minutes'")
    assert not is_readable(await house.read(MINE, proof(house.held)))


async def test_the_database_shows_an_agent_no_key_in_clear_and_lets_it_ask_in_no_other_name(house: House) -> None:
    with acting_for_task(proof(house.held)):
        async with tenant_transaction(house.thief.pool, "default") as connection:
            assert await connection.fetch("SELECT * FROM flotilla.session_key('default', 'hers')") == []
            for statement in (
                "SELECT * FROM flotilla.tenant_keys",
                "SELECT * FROM flotilla.person_keys",
                "SELECT * FROM flotilla.session_keys",
                "SELECT * FROM flotilla.session_key_asker('default', 't9', 1, 'hers', '')",
                "UPDATE flotilla_ops.agents SET name = 'research'",
                "SELECT flotilla.add_keys('default', 'mine', 'k', 'r', '1', '2', '3')",
            ):
                with pytest.raises(asyncpg.InsufficientPrivilegeError):
                    async with connection.transaction():
                        await connection.execute(statement)


def asked(house: House, held: AgentTask, place: tuple[str, str], **changed: Any) -> SessionKeyAsked:
    public_key = house.thief.keyring.public_key
    assert public_key is not None
    fields: dict[str, Any] = {
        "tenant_id": place[0],
        "session_id": place[1],
        "task_id": held.task_id,
        "attempt": held.attempt,
        "public_key": b64encode(public_key).decode(),
        "nonce": secrets.token_hex(16),
        "makes": False,
        "proof": "",
        **changed,
    }
    return with_proof(SessionKeyAsked(**fields), held.secret or "")


async def test_a_request_that_was_changed_on_its_way_is_refused(house: House) -> None:
    honest = asked(house, house.held, MINE)
    async with httpx.AsyncClient(base_url=house.url) as client:
        for changed in ({"makes": True}, {"nonce": "another"}, {"proof": "0" * 64}, {"proof": "ä"}):
            answer = await client.post(SESSION_KEYS_PATH, content=to_json(replace(honest, **changed)))
            assert answer.status_code == 403, answer.text
        assert (await client.post(SESSION_KEYS_PATH, content=to_json(honest))).status_code == 200


async def test_the_answer_to_another_process_can_not_be_read(house: House) -> None:
    async with agent_process(house.pool, house.url, "research") as research:
        theirs = asked(house, house.other, HERS, public_key=b64encode(research.keyring.public_key or b"").decode())
        async with httpx.AsyncClient(base_url=house.url) as client:
            answer = await client.post(SESSION_KEYS_PATH, content=to_json(theirs))
        assert answer.status_code == 200
        with pytest.raises(Undecodable):
            opened_key(theirs, house.other.secret or "", house.thief.keyring._private_key, answer.content)
        mine = asked(house, house.held, MINE)
        with pytest.raises(Undecodable):
            opened_key(mine, house.held.secret or "", research.keyring._private_key, answer.content)


async def test_who_answers_in_the_place_of_a_worker_gives_the_agent_no_key_of_their_own(house: House) -> None:
    async def answer(request: Request) -> Response:
        wanted = from_json(await request.body(), SessionKeyAsked)
        invented = Cipher("p1", DataKey(bytes(32), wanted.tenant_id, wanted.session_id))
        return Response(sealed_key(wanted, sha256(b"guessed").digest(), invented))

    app = Starlette(routes=[Route(SESSION_KEYS_PATH, answer, methods=["POST"])])
    async with (
        http_server(app, "127.0.0.1", 0, grace_s=1).serving() as port,
        agent_process(house.pool, f"http://127.0.0.1:{port}") as misled,
    ):
        with pytest.raises(RetryLater, match="holds no key"):
            await house.read(MINE, proof(house.held), misled)


@pytest.mark.parametrize(
    ("body", "status"),
    [(b"", 400), (b"[]", 400), (b"{}", 400), (b"\xff" * 9_000, 400), (b" " * 10_001, 413), (b'{"a":' * 2_000, 400)],
)
async def test_odd_requests_are_refused_and_the_worker_goes_on(house: House, body: bytes, status: int) -> None:
    async with httpx.AsyncClient(base_url=house.url) as client:
        assert (await client.post(SESSION_KEYS_PATH, content=body)).status_code == status
        for changed in ({"tenant_id": "a\0b"}, {"task_id": "x" * 5_000}, {"attempt": 2**40}, {"session_id": ""}):
            answer = await client.post(SESSION_KEYS_PATH, content=to_json(asked(house, house.held, MINE, **changed)))
            assert answer.status_code in {400, 403}, answer.text
        for key in ("", "?", b64encode(b"short").decode(), b64encode(bytes(32)).decode()):
            answer = await client.post(
                SESSION_KEYS_PATH, content=to_json(asked(house, house.held, MINE, public_key=key))
            )
            assert answer.status_code in {400, 403}, answer.text
    assert await house.read(MINE, proof(house.held)) == SAID


async def test_each_request_is_counted_by_its_outcome(house: House) -> None:
    honest = to_json(asked(house, house.held, MINE))
    stolen = to_json(asked(house, house.held, HERS))
    outcomes = {honest: "issued", stolen: "refused", b"[]": "malformed", b" " * 10_001: "malformed"}
    before = {outcome: _counted(outcome) for outcome in outcomes.values()}
    async with httpx.AsyncClient(base_url=house.url) as client:
        for body in outcomes:
            await client.post(SESSION_KEYS_PATH, content=body)
    assert {outcome: _counted(outcome) - before[outcome] for outcome in before} == {
        "issued": 1,
        "refused": 1,
        "malformed": 2,
    }


def _counted(outcome: str) -> float:
    return REGISTRY.get_sample_value("flotilla_session_keys_seconds_count", {"outcome": outcome}) or 0.0


async def test_a_flood_of_requests_leaves_the_worker_its_connections(house: House, database: Database) -> None:
    keys = Keyring(KeyFile(house.key_file), writes=True)
    owner = await asyncpg.connect(database.superuser_dsn)
    dsn = database.dsn("flotilla_worker")
    try:
        async with (
            owner.transaction(),
            open_pool(dsn, application="worker", keyring=keys) as worker,
            serving(worker, keys) as url,
            httpx.AsyncClient(base_url=url) as client,
            asyncio.TaskGroup() as group,
        ):
            await owner.execute("LOCK TABLE flotilla_ops.agents")
            flood = [group.create_task(_asks(client, asked(house, house.held, MINE))) for _ in range(30)]
            await eventually(lambda: _waiting(owner))
            async with asyncio.timeout(2):
                assert await worker.fetchval("SELECT 1") == 1
            refused = await next(asyncio.as_completed(flood))
            assert (refused.status_code, refused.json()["reason"]) == (503, TOO_MANY)
            await owner.execute("ROLLBACK AND CHAIN")
    finally:
        await owner.close()
    assert {each.result().status_code for each in flood} == {200, 503}


async def _asks(client: httpx.AsyncClient, wanted: SessionKeyAsked) -> httpx.Response:
    return await client.post(SESSION_KEYS_PATH, content=to_json(wanted), timeout=30)


async def _waiting(owner: asyncpg.Connection) -> bool:
    """Whether as many requests as may wait for the table."""
    found = await owner.fetchval("SELECT count(*) FROM pg_locks WHERE NOT granted")
    return bool(found >= 5)


def test_an_agents_settings_name_no_root_key() -> None:
    assert not [name for name in AgentSettings.model_fields if "key_file" in name and "public" not in name]
