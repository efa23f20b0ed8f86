"""`flotilla up` runs an agent that `flotilla new agent` wrote, as a user of its own, and it answers a task."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from flotilla.agent.template import write_agent
from flotilla_devstack import Status, UpOptions, down, up
from flotilla_devstack.ports import free_port
from flotilla_devstack.redis_users import read_passwords
from tests.support.waiting import eventually

FLOTILLA = Path(sys.executable).parent / "flotilla"


@pytest.fixture
def running() -> Iterator[Status]:
    root = Path(tempfile.mkdtemp(prefix="flotilla-own-agent-"))
    root.chmod(0o711)
    write_agent("word-count", root / "word-count-agent")
    options = UpOptions(
        state=root / "state",
        services=("gateway", "workflow-worker"),
        agents=(root / "word-count-agent",),
        ports=(("gateway.http", free_port()),),
    )
    try:
        yield up(options, timeout_s=120)
    finally:
        down(options.state)
        shutil.rmtree(root)


def flotilla(status: Status, *words: str) -> dict[str, Any]:
    environment = {**os.environ, "FLOTILLA_HOME": str(Path(status["keys_file"]).parent)}
    command = [str(FLOTILLA), *words, "-o", "json"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


@pytest.mark.timeout(240)
async def test_a_new_agent_answers_a_task_on_the_local_stack(running: Status) -> None:
    processes = {process["name"] for process in running["processes"]}
    assert "word-count-agent" in processes
    state = Path(running["keys_file"]).parent
    assert "word-count-agent" in read_passwords(state / "redis-passwords.json")

    words = ("--step", "word-count", "--input", '{"text": "one two three"}')
    task = flotilla(running, "tasks", "submit", *words)

    def finished() -> dict[str, Any] | None:
        found = flotilla(running, "tasks", "get", task["task_id"])
        return found if found["status"] == "success" else None

    done = await eventually(finished, timeout_s=30)
    assert done["result"] == {"text": "one two three", "words": 3}
