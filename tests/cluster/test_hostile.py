"""A pod of each service in hostile hands: with its own credentials, from its own network, on the fleet's servers.

The attacks are those of tests/hostile; the demo's servers have the rights that the installer gave.
"""

import json
from collections.abc import Sequence
from typing import Any

import pytest

from flotilla.contracts.names import reply_stream, task_stream
from tests.cluster.fleet import Fleet
from tests.hostile.database.test_services import EVERYTHING

pytestmark = pytest.mark.full

ROLES = {
    "gateway": "flotilla_gateway",
    "workflow-worker": "flotilla_worker",
    "research-agent": "flotilla_agent_adder",
    "outbox-relay": "flotilla_relay",
    "audit-consumer": "flotilla_audit",
}
OF_NO_SERVICE = (
    ["ACL", "LIST"],
    ["CONFIG", "SET", "requirepass", ""],
    ["FLUSHALL"],
    ["KEYS", "*"],
    ["EVAL", "while true do end", "0"],
    ["FUNCTION", "FLUSH"],
    ["MONITOR"],
    ["CLIENT", "KILL", "TYPE", "normal"],
)
OF_NO_AGENT = (
    ["XADD", task_stream("write"), "*", "event", "{}"],
    ["XADD", task_stream("research"), "*", "event", "{}"],
    ["XADD", reply_stream("write"), "*", "event", "{}"],
    ["XADD", reply_stream("write"), "MAXLEN", "0", "*", "event", "{}"],
    ["XADD", reply_stream("write"), "18446744073709551615-18446744073709551615", "event", "{}"],
    ["XTRIM", reply_stream("research"), "MAXLEN", "0"],
    ["DEL", reply_stream("research")],
    ["XREAD", "COUNT", "1", "STREAMS", task_stream("write"), "0"],
    ["XTRIM", task_stream("research"), "MAXLEN", "0"],
    ["DEL", task_stream("research")],
)
# Prints which statements were neither refused nor without effect; nothing of them stays.
_SQL = """
import asyncio, asyncpg, json, os, sys
async def main():
    connection = await asyncpg.connect(os.environ["FLOTILLA_POSTGRES_DSN"])
    done = []
    for statement in json.load(sys.stdin):
        transaction = connection.transaction()
        await transaction.start()
        try:
            for name in ("flotilla.tenant_id", "flotilla.sees_all"):
                await connection.execute("SELECT set_config($1, 'default', true)", name)
            if not (await connection.execute(statement)).endswith(" 0"):
                done.append(statement)
        except (asyncpg.InsufficientPrivilegeError, asyncpg.UndefinedObjectError, asyncpg.InvalidParameterValueError):
            pass  # the last two: this server has no such role
        finally:
            await transaction.rollback()
    print(json.dumps(done))
asyncio.run(main())
"""
_REDIS = """
import json, os, sys, redis
client = redis.Redis.from_url(os.environ["FLOTILLA_REDIS_URL"])
done = []
for command in json.load(sys.stdin):
    try:
        client.execute_command(*command)
    except redis.exceptions.NoPermissionError:
        continue
    done.append(command)
print(json.dumps(done))
"""


_FIND_KEYS = """
import pathlib
files = [path for path in pathlib.Path("/etc/flotilla").rglob("*") if path.is_file()]
print(*(path for path in files if b"PRIVATE KEY" in path.read_bytes()))
"""


def done_by(fleet: Fleet, service: str, script: str, attacks: Sequence[object]) -> Any:
    """What a pod of `service` brings about with its own credentials."""
    pod = fleet.namespace.pods(service)[0]["metadata"]["name"]
    command = ["exec", "--stdin", pod, "--", "python", "-c", script]
    return json.loads(fleet.namespace.kubectl(*command, stdin=json.dumps(attacks)).splitlines()[-1])


@pytest.mark.parametrize("service", ROLES)
async def test_a_pods_database_password_is_worth_its_own_work(fleet: Fleet, service: str) -> None:
    attacks = EVERYTHING[ROLES[service]]
    assert done_by(fleet, service, _SQL, attacks) == []


@pytest.mark.parametrize("service", ["gateway", "workflow-worker", "research-agent"])
async def test_a_pods_redis_password_administers_nothing(fleet: Fleet, service: str) -> None:
    assert done_by(fleet, service, _REDIS, OF_NO_SERVICE) == []


async def test_an_agents_redis_password_reaches_no_other_agent_and_no_task(fleet: Fleet) -> None:
    assert done_by(fleet, "research-agent", _REDIS, OF_NO_AGENT) == []


@pytest.mark.parametrize("service", ["outbox-relay", "audit-consumer"])
async def test_a_pod_without_work_on_redis_has_no_password_for_it(fleet: Fleet, service: str) -> None:
    pod = fleet.namespace.pods(service)[0]["metadata"]["name"]
    variables = fleet.namespace.kubectl("exec", pod, "--", "python", "-c", "import os; print(*os.environ)").split()
    assert not [name for name in variables if "REDIS" in name and name.startswith("FLOTILLA_")]


async def test_only_the_worker_can_sign_tasks_and_only_the_audit_consumer_checkpoints(fleet: Fleet) -> None:
    keys = {service: _private_keys(fleet, service) for service in ROLES}
    assert {service for service, files in keys.items() if files} == {"workflow-worker", "audit-consumer"}, keys


def _private_keys(fleet: Fleet, service: str) -> list[str]:
    pod = fleet.namespace.pods(service)[0]["metadata"]["name"]
    return fleet.namespace.kubectl("exec", pod, "--", "python", "-c", _FIND_KEYS).split()
