"""Histories go to files and come back, while the command, the audit consumer and the gateway are killed -9 at random
instants: no session is ever half away, none is lost, and repeating the command ends it."""

import asyncio
import os
import random
import subprocess
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from flotilla.encryption import KeyFile, Keyring, create_key_file
from flotilla.eventstore import AgentEventStore
from flotilla.postgres import open_pool
from tests.e2e.fleet import FLOTILLA, Fleet
from tests.e2e.stores import query, superuser_dsn
from tests.support.exports import said
from tests.support.properties import FULL
from tests.support.scratch import open_folder
from tests.support.waiting import eventually

SEEDS = range(1, 11) if FULL else range(1, 3)
ROUNDS = 3
"""Of archive and restore, each killed several times."""
KILLS = 3
"""Of one command, at most; then it is left alone."""
TRIES = 30
SIZES = (4_000, 900, 300, 120, 60, 30, 12, 7, 3, 2, 1, 1)
VICTIMS = ("command", "audit-consumer", "gateway")
TOMORROW = "2999-01-01"
# In one snapshot: those whose events are neither all here nor all away.
HALF = """
SELECT h.session_id, h.seq, h.archived_seq, count(e.seq) AS events FROM audit.session_heads AS h
LEFT JOIN audit.session_events AS e ON e.tenant_id = h.tenant_id AND e.session_id = h.session_id
WHERE h.session_id LIKE 'kept-%' GROUP BY h.tenant_id, h.session_id, h.seq, h.archived_seq
HAVING count(e.seq) <> h.seq - h.archived_seq OR h.archived_seq NOT IN (0, h.seq)
"""
ROWS = """
SELECT session_id, seq, event_id, type, occurred_at, rolled_back_to, kafka_partition, kafka_offset, hash, body, event
FROM audit.session_events WHERE session_id LIKE 'kept-%' ORDER BY session_id, seq
"""
AWAY = "SELECT count(*) AS n FROM audit.session_heads WHERE session_id LIKE 'kept-%' AND archived_seq = seq"


@dataclass
class Killed:
    """`flotilla audit` as a process, with something killed beneath it."""

    fleet: Fleet
    draw: random.Random
    longest_s: dict[str, float] = field(default_factory=dict)
    """By verb, how long the slowest one that ended took."""
    kills: list[str] = field(default_factory=list)
    refused: int = 0
    """Commands that ended with an error, since what they asked was away or in the middle of it."""

    async def until_done(self, verb: str, *options: str) -> None:
        """Run the verb, kill something at random instants of it, and repeat it until it is done."""
        left = KILLS if verb in self.longest_s else 0
        for _ in range(TRIES):
            process, began = self._begin(verb, *options), time.monotonic()
            if left:
                left -= 1
                await self._kill_during(verb, process)
            _, problem = await asyncio.to_thread(process.communicate, timeout=400)
            if process.returncode == 0:
                took_s = time.monotonic() - began
                self.longest_s[verb] = max(self.longest_s.get(verb, 0.0), took_s)
                return
            self.refused += process.returncode > 0
            assert "is BAD" not in problem, problem
        pytest.fail(f"{verb} was not done after {TRIES} tries: {problem}")

    async def _kill_during(self, verb: str, process: "subprocess.Popen[str]") -> None:
        """Kill -9 of the command, or of a service, whose supervisor starts another one."""
        after_s = self.draw.uniform(0.05, self.longest_s[verb])
        victim = self.draw.choice(VICTIMS)
        await asyncio.sleep(after_s)
        if process.poll() is not None:
            return
        self.kills.append(f"{victim} at {after_s:.2f} s of {verb}")
        if victim == "command":
            process.kill()
        else:
            await self.fleet.kill(victim)

    def _begin(self, verb: str, *options: str) -> "subprocess.Popen[str]":
        env = {**os.environ, **self.fleet.env, "FLOTILLA_HOME": str(self.fleet.home), "NO_COLOR": "1"}
        words = [str(FLOTILLA), "audit", verb, *options, "-o", "json"]
        return subprocess.Popen(words, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.mark.chaos
@pytest.mark.timeout(1500)
@pytest.mark.parametrize("seed", SEEDS)
async def test_no_session_is_half_away_or_lost_whatever_is_killed(seed: int) -> None:
    draw = random.Random(seed)  # noqa: S311 - repeatable, not secret
    with open_folder(f"flotilla-archives-{seed}", None) as folder:
        create_key_file(folder / "root.keys")
        key_file = str(folder / "root.keys")
        env = {
            "OPENAI_API_KEY": "",
            "FLOTILLA_ENCRYPTION": "on",
            "FLOTILLA_ENCRYPTION_KEY_FILE": key_file,
            "FLOTILLA_CHECKPOINT_INTERVAL_S": "1",
        }
        fleet, archives = Fleet(folder / "home", env), folder / "archives"
        archives.mkdir()
        try:
            fleet.up()
            await write_histories(fleet, Path(key_file))
            before = await query(fleet, ROWS)
            command = Killed(fleet, draw)
            async with watched(fleet) as looks:
                for _ in range(1 + ROUNDS):
                    await there_and_back(fleet, command, archives)
            assert looks[0] > 20
            assert command.kills
            assert await query(fleet, ROWS) == before
            assert await query(fleet, "SELECT FROM audit.returned_events") == []
            await eventually(lambda: fleet.cli_json("audit", "verify")["ok"] is True, timeout_s=120, every_s=2)
        finally:
            fleet.down()
        print(f"seed {seed}: {looks[0]} looks, {command.refused} refused, killed {command.kills}")  # noqa: T201


async def write_histories(fleet: Fleet, key_file: Path) -> None:
    """Encrypted sessions of different lengths, projected and signed."""
    keyring = Keyring(KeyFile(key_file), writes=True)
    async with open_pool(superuser_dsn(fleet), application="test", keyring=keyring) as pool:
        store = AgentEventStore(pool)
        for number, size in enumerate(SIZES):
            await store.ensure_session(f"kept-{number}", "ada")
            events = [said(f"{number}, {place}") for place in range(size)]
            for first in range(0, size, 500):
                await store.append(f"kept-{number}", events[first : first + 500])

    async with fleet.client("admin") as admin:

        async def all_are_archivable() -> bool:
            asked = {"before": f"{TOMORROW}T00:00:00Z", "limit": "100"}
            found = (await admin.get("/v1/audit/archivable", params=asked)).json()["sessions"]
            return len([one for one in found if one["session_id"].startswith("kept-")]) == len(SIZES)

        await eventually(all_are_archivable, timeout_s=120, every_s=0.5)


async def there_and_back(fleet: Fleet, command: Killed, folder: Path) -> None:
    """All go to files, which are good, and come back from them."""

    async def all_are_away() -> bool:
        await command.until_done("archive", "--before", TOMORROW, "--to", str(folder))
        (away,) = await query(fleet, AWAY)
        return bool(away["n"] == len(SIZES))

    await eventually(all_are_away, timeout_s=120)
    listed: list[dict[str, Any]] = fleet.cli_json("audit", "archives", "--limit", "1000")["archives"]
    files = sorted({one["file"] for one in listed if one["is_away"]})
    for file in files:
        assert fleet.cli("audit", "verify", "--file", file).returncode == 0
    for file in files:
        await command.until_done("restore", file)
    (away,) = await query(fleet, AWAY)
    assert away["n"] == 0


@asynccontextmanager
async def watched(fleet: Fleet) -> AsyncIterator[list[int]]:
    """Look all the time whether a session is half away; how often it was looked."""
    looks = [0]

    async def look() -> None:
        while True:
            assert await query(fleet, HALF) == []
            looks[0] += 1

    task = asyncio.create_task(look())
    try:
        yield looks
    finally:
        task.cancel()
        [ended] = await asyncio.gather(task, return_exceptions=True)
        assert isinstance(ended, asyncio.CancelledError), ended
