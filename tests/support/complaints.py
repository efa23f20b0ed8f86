"""The examples under fire: an agent killed at random instants while people decide, and the books of its outside."""

import asyncio
import importlib.util
import json
import random
import shutil
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

from flotilla.bus import Redis
from flotilla.llm import hash_completion_request
from flotilla.llm.chat_request import parse_chat_request
from flotilla.postgres import Pool
from tests.support.agents import open_session, publish, replies, rows, session_events, task
from tests.support.consumers import Process, start
from tests.support.policies import UNSIGNED
from tests.support.postgres import agent_dsn
from tests.support.tickets import PUBLIC_KEY_FILE
from tests.support.waiting import eventually

EXAMPLES = Path(__file__).parents[2] / "examples"
FOUND = sorted(file.parent.name for file in EXAMPLES.glob("*/service.toml"))
NAMES = [name for name in FOUND if name != "typescript" or shutil.which("node")]
MODULE = "tests.support.example_process"
TYPESCRIPT = "typescript"
SIDECAR_MODULE = "tests.support.sidecar_process"
MODEL = "clerk-1"
ANSWERS = 4
"""Of the model, per complaint."""
_DECIDE = """
INSERT INTO flotilla.actions (tenant_id, action_id, session_id, workflow_id, action, description, args, risk_level,
    requested_by, approval_status, request, finished_at)
VALUES ('default', $1, 's1', 'w', $2, 'd', $3, 'medium', '/agents/x', $4, $5, now())
"""


@dataclass(frozen=True)
class Plan:
    """How hard a run is: one complaint is made before each kill, until there are `rounds`."""

    example: str
    rounds: int
    kills: int
    seed: int = 1
    longest_s: float = 3.0
    """Between two kills."""
    delay_s: float = 0.4
    """The longest answer of the model and of the shop."""
    members: int = 2

    @property
    def agent(self) -> str:
        return f"refunds-{self.example}"

    @property
    def module(self) -> str:
        """What runs it."""
        return SIDECAR_MODULE if self.example == TYPESCRIPT else MODULE


@dataclass
class Outside:
    """The model and the shop, which a kill does not reach."""

    model: Any
    shop: Any

    @property
    def environment(self) -> dict[str, str]:
        """Where an agent finds them."""
        return {
            "OPENAI_BASE_URL": f"http://127.0.0.1:{self.model.server_port}/v1",
            "FLOTILLA_LLM_MODEL": MODEL,
            "SHOP_URL": f"http://127.0.0.1:{self.shop.server_port}",
        }

    @property
    def asked(self) -> list[dict[str, Any]]:
        """The requests to the model."""
        return list(self.model.RequestHandlerClass.log)

    @property
    def books(self) -> Any:
        """The shop's."""
        return self.shop.RequestHandlerClass.shop


@dataclass
class Fleet:
    """The processes, and what people decided so far."""

    plan: Plan
    pool: Pool
    redis: Redis
    outside: Outside
    what: dict[str, Any]
    chance: random.Random
    members: list[Process] = field(default_factory=list)
    decided: dict[str, int] = field(default_factory=dict)
    """By approval id: the cents that may be paid, or 0 for a no."""
    answered: set[tuple[str, int]] = field(default_factory=set)

    async def add(self) -> None:
        """One more process."""
        name = f"c{self.chance.randrange(10**9)}"
        self.members.append(await asyncio.to_thread(start, self.plan.module, name=name, **self.what))

    def kill(self) -> None:
        """The longest-lived one."""
        end(self.members.pop(0))

    async def make(self, number: int) -> None:
        """One complaint."""
        await publish(self.pool, self.redis, complaint(self.plan, number))

    async def decide(self) -> None:
        """Answer what the agents ask people by now, and let their tasks go on."""
        for reply in await replies(self.redis, "failed", self.plan.agent):
            seen = (reply["task_id"], reply["attempt"])
            if seen in self.answered:
                continue
            self.answered.add(seen)
            assert reply["failure"]["type"] == "ApprovalRequired", reply["failure"]
            for needed in reply["failure"]["approvals"]:
                await self._decide(reply["task_id"], needed)
            number = int(reply["task_id"][1:])
            again = complaint(self.plan, number, attempt=reply["attempt"] + 1)
            await publish(self.pool, self.redis, again)

    async def _decide(self, task_id: str, needed: dict[str, Any]) -> None:
        status, args = verdict(needed)
        self.decided[needed["approval_id"]] = args["cents"] if status == "approved" else 0
        request = json.dumps({"task_id": task_id})
        await rows(self.pool, _DECIDE, needed["approval_id"], needed["action"], json.dumps(args), status, request)

    async def all_done(self) -> bool:
        """Whether every complaint is settled."""
        await self.decide()
        done = await rows(self.pool, "SELECT 1 FROM flotilla.agent_tasks WHERE status = 'done'")
        return len(done) == self.plan.rounds


def verdict(needed: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """People say no to every fifth refund, and lower another fifth by a cent; a call may always be made again."""
    args = dict(needed["args"])
    number = args["cents"] // 100
    if ".again." in needed["approval_id"] or number % 5 < 3:
        return "approved", args
    return ("rejected", args) if number % 5 == 3 else ("approved", {**args, "cents": args["cents"] - 1})


def complaint(plan: Plan, number: int, **fields: Any) -> Any:
    """The task `t<number>`."""
    text = f"My lamp is broken. The order is A{number + 1}"
    return task(f"t{number}", agent=plan.agent, run_id=None, input={"text": text}, **fields)


def python_of(example: str) -> str:
    """The interpreter of an example's environment; that of the sidecar for TypeScript."""
    if example == TYPESCRIPT:
        assert (EXAMPLES / example / "dist/main.js").exists(), (
            "examples/typescript is not built: make test-examples does"
        )
        return sys.executable
    python = EXAMPLES / example / ".venv/bin/python"
    assert python.exists(), f"examples/{example} has no environment: make test-examples makes it"
    return str(python)


@contextmanager
def outside(delay_s: float) -> Iterator[Outside]:
    """The stand-ins, as long as the block."""
    model, shop = _stand_in("model"), _stand_in("shop")
    model.MOST_DELAY_S = shop.MOST_DELAY_S = delay_s  # type: ignore[attr-defined]
    servers = [model.server(0), shop.server(0)]
    for server in servers:
        threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield Outside(*servers)
    finally:
        for server in servers:
            server.shutdown()
            server.server_close()


def _stand_in(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / "stand_ins" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@contextmanager
def fleet(plan: Plan, *, redis: Redis, redis_url: str, pool: Pool, dsn: str) -> Iterator[Fleet]:
    """No process yet, and none afterwards."""
    with outside(plan.delay_s) as beyond:
        what = {
            "python": python_of(plan.example),
            "folder": str(EXAMPLES / plan.example),
            "package": f"refunds_{plan.example.replace('-', '_')}",
            "environment": beyond.environment,
            "policy": UNSIGNED,
            "url": redis_url,
            "dsn": dsn,
            "keys": str(PUBLIC_KEY_FILE),
            "min_idle_ms": 2_000,  # frameworks hold up the event loop when they are used first
            "claim_s": 2.0,
        }
        chance = random.Random(plan.seed)  # noqa: S311 - the same instants each time
        running = Fleet(plan, pool, redis, beyond, what, chance)
        try:
            yield running
        finally:
            for member in running.members:
                end(member)


async def run(plan: Plan, *, redis: Redis, redis_url: str, pool: Pool) -> Counter[str]:
    """Does all rounds, kills the longest-lived process at each random instant, and checks every promise."""
    await open_session(pool)
    dsn = await agent_dsn(pool, plan.agent)
    with fleet(plan, redis=redis, redis_url=redis_url, pool=pool, dsn=dsn) as running:
        for _ in range(plan.members):
            await running.add()
        for number in range(max(plan.rounds, plan.kills)):
            if number < plan.rounds:
                await running.make(number)
            await asyncio.sleep(running.chance.uniform(0, plan.longest_s))
            if number < plan.kills:
                running.kill()
                await running.add()
            await running.decide()
        await eventually(running.all_done, timeout_s=240)
        return await verify(running)


async def verify(running: Fleet) -> Counter[str]:
    """Checks the promises against the books of the outside; returns how often things were asked for twice."""
    asked = await _verify_answers(running)
    repeated = _verify_effects(running)
    await _verify_log(running)
    return Counter(answers_in_flight=asked, effects_repeated=repeated)


async def _verify_answers(running: Fleet) -> int:
    stored = {
        row["request_hash"]: row["created_at"].timestamp()
        for row in await rows(running.pool, "SELECT request_hash, created_at FROM flotilla.llm_calls")
    }
    asked = [(hash_of(body), body["at"]) for body in running.outside.asked]
    assert {name for name, _ in asked} == stored.keys()
    assert len(stored) == ANSWERS * running.plan.rounds, "a request changed after a kill"
    assert [name for name, at in asked if at > stored[name]] == [], "bought again after it was stored"
    return len(asked) - len(stored)


def hash_of(body: dict[str, Any]) -> bytes:
    """Under what the answer to a request of the model's log is stored."""
    return hash_completion_request(
        MODEL, parse_chat_request({name: value for name, value in body.items() if name != "at"})
    )


def _verify_effects(running: Fleet) -> int:
    rounds = range(1, running.plan.rounds + 1)
    done = list(running.outside.books.done.values())
    by_path = {path: [one for one in done if one["path"] == path] for path in ("reservations", "messages", "refunds")}
    assert sorted(one["product"] for one in by_path["reservations"]) == sorted(f"lamp-{n}" for n in rounds)
    assert sorted(one["order"] for one in by_path["messages"]) == sorted(f"A{n}" for n in rounds)
    paid = {one["order"]: one["cents"] for one in by_path["refunds"]}
    assert len(paid) == len(by_path["refunds"])
    may = {f"A{n}": 100 * n - (n % 5 == 4) for n in rounds if n % 5 != 3}
    assert paid == may, "what was paid is not what people approved"
    return len(running.outside.books.asked) - len(done)


async def _verify_log(running: Fleet) -> None:
    """Each start of a tool is in the log, with one end, and each request that reached the shop is a start."""
    events = await session_events(running.pool)
    calls, results = ([e for e in events if e["type"].split(".")[2] == kind] for kind in ("tool_call", "tool_result"))
    assert sorted(e["data"]["call_id"] for e in calls) == sorted(e["data"]["call_id"] for e in results)
    shown = Counter(e["data"]["tool"] for e in calls)
    reached = Counter(one["path"] for one in running.outside.books.asked)
    for tool, path in (("reserve", "reservations"), ("write_to_customer", "messages"), ("refund", "refunds")):
        assert shown[tool] >= reached[path], f"the log does not show each start of {tool}"


def end(member: Process) -> None:
    """kill -9, and nothing left of it."""
    member.kill()
    member.output.close()
