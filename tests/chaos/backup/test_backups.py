"""A fleet under load is backed up, lost and restored, with a kill -9 at a random instant of either."""

import asyncio
import json
import os
import random
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.e2e.fleet import FLOTILLA, Fleet, finished, start_run
from tests.support.properties import FULL
from tests.support.scratch import open_folder
from tests.support.waiting import eventually

SEEDS = range(1, 21) if FULL else range(1, 4)
SESSIONS = 6
ACTION = {"action": "echo", "description": "A trial", "args": {"text": "restored"}, "risk_level": "high"}
LONGEST_S = {"create": 12.0, "restore": 30.0}
"""About how long each takes on a busy machine: where a kill still meets it."""
ENDED = {"success", "error", "timeout", "cancelled"}


@dataclass
class Backups:
    """`flotilla backup` as processes that can be killed."""

    fleet: Fleet
    folder: Path
    draw: random.Random
    killed: list[str] = field(default_factory=list)

    async def killed_once(self, verb: str, *options: str) -> dict[str, Any]:
        """Run the verb, kill it after a random time, and repeat it until it is done."""
        limit_s = self.draw.uniform(0.5, LONGEST_S[verb])
        process = self._begin(verb, *options)
        try:
            out, err = await asyncio.to_thread(process.communicate, timeout=limit_s)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
            self.killed.append(f"{verb} after {limit_s:.1f} s")
            process = self._begin(verb, *options)
            out, err = await asyncio.to_thread(process.communicate, timeout=400)
        assert process.returncode == 0, err
        document: dict[str, Any] = json.loads(out)
        return document

    def _begin(self, verb: str, *options: str) -> "subprocess.Popen[str]":
        env = {**os.environ, **self.fleet.env, "FLOTILLA_HOME": str(self.fleet.home), "NO_COLOR": "1"}
        words = [str(FLOTILLA), "backup", verb, str(self.folder), *options, "-o", "json"]
        return subprocess.Popen(words, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@dataclass
class Load:
    """Runs, one after the other in each session, until it is stopped."""

    client: httpx.AsyncClient
    prefix: str
    run_ids: dict[str, float] = field(default_factory=dict)
    """When each was accepted."""
    stopped: bool = False

    async def go_on(self, number: int) -> None:
        session_id, count = f"{self.prefix}-{number}", 0
        while not self.stopped:
            count += 1
            run_id = await start_run(
                self.client, session_id, f"How long is the warranty? {count}", f"{session_id}/{count}"
            )
            self.run_ids[run_id] = time.time()
            if not self.stopped:
                await finished(self.client, run_id)


@pytest.mark.chaos
@pytest.mark.timeout(1500)
@pytest.mark.parametrize("seed", SEEDS)
async def test_a_backup_under_load_is_a_fleet_again(seed: int, unique: Callable[[str], str]) -> None:
    draw = random.Random(seed)  # noqa: S311 - repeatable, not secret
    with open_folder(f"flotilla-backup-{seed}", None) as folder:
        lost, restored = Fleet(folder / "lost"), Fleet(folder / "restored")
        backups = Backups(lost, folder / "backup", draw)
        try:
            document, load, action_id = await _backed_up(lost, backups, unique("load"))
            assert lost.cli_json("backup", "verify", str(backups.folder))["ok"] is True
            lost.down()
            again = await backups.killed_once("restore", "--state", str(restored.home), "--public-key", _key_of(lost))
            assert again["backup_id"] == document["backup_id"]
            restored.up()
            await _judge(restored, load, document, action_id)
        finally:
            lost.down()
            restored.down()
        print(f"seed {seed}: killed {backups.killed}, {document['events']} events, {document['cut']} cut")  # noqa: T201


def _key_of(fleet: Fleet) -> str:
    return str(fleet.home / "backup-signing.pub")


async def _backed_up(fleet: Fleet, backups: Backups, prefix: str) -> tuple[dict[str, Any], Load, str]:
    """The backup of a fleet that worked all the time, what it worked on, and an action that waited for people."""
    fleet.up()
    async with fleet.client() as client:
        action_id = str((await client.post("/v1/actions", json=ACTION)).json()["action_id"])
        await eventually(lambda: _waits(client, action_id), timeout_s=120)
        load = Load(client, prefix)
        runs = [asyncio.create_task(load.go_on(number)) for number in range(SESSIONS)]
        await eventually(lambda: len(load.run_ids) > 2 * SESSIONS, timeout_s=300)
        document = await backups.killed_once("create")
        after = len(load.run_ids)
        await eventually(lambda: len(load.run_ids) > after, timeout_s=120)
        load.stopped = True
        await asyncio.gather(*runs)
    return document, load, action_id


async def _waits(client: httpx.AsyncClient, action_id: str) -> bool:
    return (await client.get(f"/v1/approvals/{action_id}")).status_code == httpx.codes.OK


async def _judge(fleet: Fleet, load: Load, document: dict[str, Any], action_id: str) -> None:
    async with fleet.client() as client:
        present = {run: accepted for run, accepted in load.run_ids.items() if await _is_known(client, run)}
        ended = [await finished(client, run_id, timeout_s=300) for run_id in present]
        assert {run["status"] for run in ended} <= ENDED
        assert all(run["status"] == "success" or run["error"] for run in ended), ended
        assert len(present) >= SESSIONS, "runs that ended before the backup are in it"
        answer = await finished(client, await start_run(client, f"{load.prefix}-0", "And now?", "after"))
        assert answer["status"] == "success"
        await _decide(fleet, client, action_id)
    await eventually(lambda: fleet.cli_json("audit", "parked", "list")["parked"] == [], timeout_s=60)
    await eventually(lambda: fleet.cli_json("audit", "verify")["ok"] is True, timeout_s=120, every_s=2)
    assert document["events"] > 0


async def _is_known(client: httpx.AsyncClient, run_id: str) -> bool:
    return (await client.get(f"/v1/runs/{run_id}")).status_code == httpx.codes.OK


async def _decide(fleet: Fleet, client: httpx.AsyncClient, action_id: str) -> None:
    """What waited for people goes on as soon as they decide."""
    content_hash = (await client.get(f"/v1/approvals/{action_id}")).json()["content_hash"]
    fleet.cli("approvals", "approve", action_id, "--as", "bob", "--content-hash", content_hash)

    async def completed() -> bool:
        return bool((await client.get(f"/v1/actions/{action_id}")).json()["status"] == "completed")

    await eventually(completed, timeout_s=120)
