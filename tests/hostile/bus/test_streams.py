"""A hostile agent stops, empties and closes streams.

Each test is an attack and its variations: the agent is refused, or gets no answer, and nothing of others changes.
"""

from collections.abc import Callable

from flotilla.bus import Redis
from flotilla.bus.housekeeping import BusHousekeeping
from flotilla.contracts.names import (
    DEAD_LETTERS_STREAM,
    EVENTS_STREAM,
    REDRIVES_STREAM,
    REPLIES_STREAM,
    agent_group,
    cancelled_key,
    login_key,
    reply_stream,
    run_stream,
    task_stream,
)
from tests.hostile.bus.ground import TENANT, answering, delegated
from tests.hostile.bus.insider import AGENT, MAX_ID, VICTIM, Insider, reply_event
from tests.support.waiting import eventually
from tests.support.worker import RunningWorker

# 6: stopping the bus ------------------------------------------------------------------------------------------------

OTHERS = [
    task_stream(VICTIM), task_stream(AGENT), REPLIES_STREAM, reply_stream(VICTIM), EVENTS_STREAM, DEAD_LETTERS_STREAM,
    REDRIVES_STREAM, cancelled_key("t1"), login_key("x"),
]  # fmt: skip
OWN = reply_stream(AGENT)
HARMFUL: list[tuple[str | int, ...]] = [
    *(("XADD", stream, "MAXLEN", 0, "*", "event", "{}") for stream in OTHERS),
    *(("XADD", stream, MAX_ID, "event", "{}") for stream in OTHERS),
    *(("XTRIM", stream, "MAXLEN", 0) for stream in (*OTHERS, OWN)),
    *(("XSETID", stream, MAX_ID) for stream in (*OTHERS, OWN)),
    *(("DEL", stream) for stream in (*OTHERS, OWN)),
    *(("UNLINK", stream) for stream in OTHERS),
    *(("EXPIRE", stream, 0) for stream in OTHERS),
    *(("RENAME", stream, "gone") for stream in OTHERS),
    ("XGROUP", "DESTROY", task_stream(AGENT), agent_group(AGENT)),
    ("XGROUP", "SETID", task_stream(AGENT), agent_group(AGENT), MAX_ID),
    ("XGROUP", "DELCONSUMER", task_stream(VICTIM), agent_group(VICTIM), "c"),
    ("XDEL", task_stream(AGENT), "1-1"),
    ("EVAL", "while true do end", 0),
    ("EVAL_RO", "while true do end", 0),
    ("EVALSHA", "0" * 40, 0),
    ("SCRIPT", "LOAD", "while true do end"),
    ("FUNCTION", "LOAD", "#!lua name=m\nredis.register_function('m', function() while true do end end)"),
    ("FUNCTION", "DELETE", "flotilla1"),
    ("FCALL", "flotilla1_retire", 1, task_stream(VICTIM), agent_group(VICTIM), "c", 0),
    ("FCALL", "flotilla1_renew", 2, task_stream(AGENT), task_stream(VICTIM), "g", "c", "1-1"),
    ("FLUSHALL",), ("FLUSHDB",), ("SHUTDOWN",), ("DEBUG", "SLEEP", 5), ("CLIENT", "KILL", "TYPE", "normal"),
    ("CLIENT", "PAUSE", 10_000), ("CONFIG", "SET", "maxmemory", "1"), ("ACL", "SETUSER", AGENT, "+@all"),
    ("SWAPDB", 0, 1), ("KEYS", "*"), ("SCAN", 0), ("RANDOMKEY",), ("PUBLISH", "c", "m"), ("INFO",),
]  # fmt: skip


async def test_an_agent_stops_trims_closes_and_blocks_nothing_of_others(mallory: Insider, admin: Redis) -> None:
    before = {stream: await admin.dump(stream) for stream in OTHERS}
    got_through = [command for command in HARMFUL if await mallory.attempt(*command) == "done"]
    assert got_through == []
    assert {stream: await admin.dump(stream) for stream in OTHERS} == before


async def test_one_call_of_a_function_holds_redis_for_an_instant_only(mallory: Insider, admin: Redis) -> None:
    del admin
    many = [f"1-{n}" for n in range(50_000)]
    call = ("FCALL", "flotilla1_renew", 1, task_stream(AGENT), agent_group(AGENT), "c")
    assert await mallory.attempt(*call, *many) == "error"


async def no_agents() -> list[str]:
    return []


async def test_an_agent_that_closes_its_own_stream_gets_a_new_one(
    mallory: Insider, admin: Redis, worker: RunningWorker, unique: Callable[[str], str]
) -> None:
    nonsense = reply_event(task_id="t", agent=AGENT, tenant_id=TENANT, session_id="s", status="cancelled")
    assert await mallory.attempt("XADD", OWN, MAX_ID, "event", nonsense) == "done"
    assert await mallory.attempt("XADD", OWN, "*", "event", "{}") == "error"
    victim = await delegated(worker, admin, unique("task"), [VICTIM])
    async with answering(admin, VICTIM):
        assert (await victim.handle.result()).result == {"honest": True}  # nobody else noticed
    keeper = BusHousekeeping(admin, no_agents)

    async def open_again() -> bool:
        await keeper.run_round()
        return await mallory.attempt("XADD", OWN, "*", "event", "{}") == "done"

    await eventually(open_again, timeout_s=30)


async def test_an_agent_that_empties_its_own_stream_harms_its_own_answers_only(
    mallory: Insider, admin: Redis, worker: RunningWorker, unique: Callable[[str], str]
) -> None:
    own = await delegated(worker, admin, unique("own"), [AGENT])
    for _ in range(20):
        assert await mallory.attempt("XADD", OWN, "MAXLEN", 0, "*", "event", "{}") == "done"
    victim = await delegated(worker, admin, unique("task"), [VICTIM])
    async with answering(admin, VICTIM):
        assert (await victim.handle.result()).result == {"honest": True}
    await own.handle.terminate()


async def test_a_live_stream_is_out_of_reach_without_its_key(
    mallory: Insider, admin: Redis, unique: Callable[[str], str]
) -> None:
    run_id = unique("run")
    live = run_stream(run_id, "0" * 32)
    await admin.xadd(live, {"kind": "token", "data": "{}"})
    assert await mallory.attempt("XADD", run_stream(run_id, ""), MAX_ID, "kind", "token", "data", "{}") == "done"
    assert await mallory.attempt("XRANGE", live, "-", "+") == "refused"
    assert await mallory.attempt("XREAD", "STREAMS", live, "0") == "refused"
    assert await mallory.attempt("KEYS", "flotilla.runs.*") == "refused"
    assert await mallory.attempt("SCAN", 0, "MATCH", "flotilla.runs.*") == "refused"
    assert await admin.xlen(live) == 1
