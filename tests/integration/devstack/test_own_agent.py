"""`flotilla up` runs agents that `flotilla new agent` wrote, as users of their own, also beside a stack that runs."""

import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from flotilla.agent.template import write_agent
from flotilla_devstack import StackStatus, UpOptions, down, stack_status, up
from flotilla_devstack.errors import StartFailedError
from flotilla_devstack.ports import free_port
from flotilla_devstack.redis_users import read_redis_passwords
from tests.support.command import run_command
from tests.support.waiting import eventually


@pytest.fixture(scope="module")
def running() -> Iterator[StackStatus]:
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


def flotilla(status: StackStatus, *words: str) -> dict[str, Any]:
    environment = {**os.environ, "FLOTILLA_HOME": str(Path(status["keys_file"]).parent)}
    done = run_command([*words, "-o", "json"], environment, timeout_s=60)
    assert done.returncode == 0, done.stderr
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


@pytest.mark.timeout(240)
async def test_a_new_agent_answers_a_task_on_the_local_stack(running: StackStatus) -> None:
    processes = {process["name"] for process in running["processes"]}
    assert "word-count-agent" in processes
    state = Path(running["keys_file"]).parent
    assert "word-count-agent" in read_redis_passwords(state / "redis-passwords.json")

    words = ("--step", "word-count", "--input", '{"text": "one two three"}')
    task = flotilla(running, "tasks", "submit", *words)

    def finished() -> dict[str, Any] | None:
        found = flotilla(running, "tasks", "get", task["task_id"])
        return found if found["status"] == "success" else None

    done = await eventually(finished, timeout_s=30)
    assert done["result"] == {"text": "one two three", "words": 3}


@pytest.mark.timeout(240)
def test_a_stack_that_runs_takes_another_agent_and_stays_up_when_one_does_not_start(running: StackStatus) -> None:
    state = Path(running["keys_file"]).parent
    for name in ("late", "broken"):
        write_agent(name, state.parent / f"{name}-agent")
    (state.parent / "broken-agent/broken_agent/main.py").write_text("raise SystemExit('not today')")
    folders = tuple(state.parent / f"{name}-agent" for name in ("word-count", "late"))
    before = {process["name"]: process["pid"] for process in running["processes"]}

    grown = up(UpOptions(state=state, agents=folders), timeout_s=120)
    after = {process["name"]: process["pid"] for process in grown["processes"]}
    assert after.items() > before.items()
    assert after.keys() - before.keys() == {"late-agent"}
    assert "late" in {agent["name"] for agent in flotilla(running, "agents", "list")["agents"]}
    assert up(UpOptions(state=state, agents=folders), timeout_s=120) == grown

    with pytest.raises(StartFailedError, match="broken-agent did not come up"):
        up(UpOptions(state=state, agents=(*folders, state.parent / "broken-agent")), timeout_s=120)
    assert stack_status(state)["state"] == "ready"
    assert {process["name"]: process["pid"] for process in stack_status(state)["processes"]} == after
