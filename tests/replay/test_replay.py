"""Every history that any version recorded replays on today's workflows."""

from pathlib import Path

import pytest
from temporalio.client import WorkflowHistory
from temporalio.worker import Replayer

from tests.replay.record import HISTORIES, SCENARIOS
from workflow_worker.temporal import make_workflow_sandbox
from workflow_worker.workflows.catalog import WORKFLOWS

RECORDED = {path: path.read_text() for path in sorted(HISTORIES.glob("*/*.json"))}


@pytest.mark.parametrize("path", RECORDED, ids=lambda path: f"{path.parent.name}/{path.stem}")
async def test_a_recorded_history_replays(path: Path) -> None:
    history = WorkflowHistory.from_json(path.stem, RECORDED[path])
    await Replayer(workflows=WORKFLOWS, workflow_runner=make_workflow_sandbox()).replay_workflow(history)


def test_each_workflow_has_recorded_histories() -> None:
    newest = max(path.parent.name for path in RECORDED)
    assert {path.stem for path in RECORDED if path.parent.name == newest} == set(SCENARIOS)


def test_each_workflow_has_histories_of_an_older_version() -> None:
    """`approval.rejected` is one of HumanInTheLoopWorkflow's."""
    versions: dict[str, set[str]] = {}
    for path in RECORDED:
        versions.setdefault(path.stem.partition(".")[0], set()).add(path.parent.name)
    assert len(versions) == len(WORKFLOWS)
    assert all(len(recorded) > 1 for recorded in versions.values()), versions
