"""A worker with a package of a team's own, and the agents that its workflow asks."""

from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from flotilla.contracts.requests import WorkflowRequest
from flotilla.postgres import Pool
from tests.integration.workflows import steps
from tests.support.packages import BRIEFINGS, BRIEFINGS_ENTRY_POINTS, installed, write_package
from tests.support.postgres import Database
from tests.support.worker import RunningWorker, running_worker

POLICY = """
version = "two-people"
[defaults]
roles = ["approver"]
[actions.publish_brief]
risk = "high"
quorum = 2
"""


@pytest.fixture
def package(tmp_path: Path) -> Iterator[Path]:
    """The folder that the package is installed in."""
    folder = tmp_path / "site"
    write_package(folder, "briefings", BRIEFINGS.read_text(), BRIEFINGS_ENTRY_POINTS)
    own = {"flotilla.workflows": {"long": "own_steps:Long", "waiter": "own_steps:Waiter"}}
    write_package(folder, "own_steps", Path(steps.__file__).read_text(), own)
    with installed(folder, "briefings", "own_steps"):
        yield folder


@pytest.fixture
def published(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the action of the package publishes: a file for each execution."""
    folder = tmp_path / "published"
    folder.mkdir()
    monkeypatch.setenv("BRIEFS_FOLDER", str(folder))
    return folder


@pytest.fixture
async def worker(
    *,
    package: Path,
    tmp_path: Path,
    database: Database,
    pool: Pool,
    redis_url: str,
    temporal_address: str,
    unique: Callable[[str], str],
) -> AsyncIterator[RunningWorker]:
    """A running workflow worker that has the package."""
    assert package.name == "site"
    policy = tmp_path / "policy.toml"
    policy.write_text(POLICY)
    async with running_worker(
        dsn=database.dsn("flotilla_worker"),
        pool=pool,
        redis_url=redis_url,
        temporal_address=temporal_address,
        task_queue=unique("queue"),
        policy=str(policy),
    ) as running:
        yield running


@pytest.fixture
def request_of(worker: RunningWorker, unique: Callable[[str], str]) -> Callable[..., WorkflowRequest]:
    """Makes requests for runs in sessions of their own."""

    def make(workflow: str = "brief", **data: Any) -> WorkflowRequest:
        return WorkflowRequest(
            workflow=workflow,
            input=data or {"topic": "harbours"},
            user_id="alice",
            session_id=unique("session"),
            tenant_id="acme",
            run_id=unique("run"),
            task_queue=worker.task_queue,
        )

    return make
