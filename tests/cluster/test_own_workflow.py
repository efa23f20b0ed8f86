"""A team's own workflow, agents and action, built outside the repository and deployed beside a fleet, under kills.

Services and agents lose their pods without notice; servers, whose pods have their disks, lose all their processes.
"""

import asyncio
import json
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.cluster.approvals import key_of
from tests.cluster.conftest import READY_WITHIN_S, Figures, own_namespace
from tests.cluster.fleet import REPOSITORY, TAG, Fleet, Reached
from tests.cluster.images import build_image
from tests.cluster.kubernetes import Namespace, Object
from tests.cluster.promises import check_history
from tests.e2e.fleet import FLOTILLA, finished, session_events
from tests.packaging.programs import succeed
from tests.support.catalog import SERVICES
from tests.support.packages import BRIEFINGS
from tests.support.waiting import eventually

pytestmark = pytest.mark.full
RUNS = 20
WORKER = "brief-worker"
AGENTS = ("planner", "critic", "drafter")
SERVERS = ("redis", "postgres", "temporal", "kafka")
VICTIMS = (WORKER, *(f"{agent}-agent" for agent in AGENTS), *SERVICES, *SERVERS, WORKER)
STEPS = 10
"""Of a run: plan, four notes, draft, critic, one more note, draft, critic."""
POLICY = """version = "two-people"
[defaults]
roles = ["approver", "admin"]
[actions.publish_brief]
risk = "high"
quorum = 2
# end
"""
ACTION = """
[project.entry-points."flotilla.actions"]
publish_brief = "brief_workflow.workflow:PublishBrief"

[project.entry-points."flotilla.action_handlers"]
publish_brief = "brief_workflow.workflow:publish_brief"
"""
TEAM = """
import os

from flotilla.agent import Agent, TaskContext, serve_agent

agent = Agent(os.environ["TEAM_AGENT"], version="1")


@agent.task
async def work(ctx: TaskContext, task: dict) -> dict:
    if agent.name == "planner":
        return {"questions": [f"{task['topic']}, part {n}" for n in range(4)]}
    if agent.name == "critic":
        return {"is_good_enough": ctx.task_id.endswith(":2"), "questions": ["one more"]}
    return {"text": f"over {len(task['results'])} notes"}


raise SystemExit(serve_agent(agent))
"""
TEAM_IMAGE = """
ARG AGENT
FROM ${AGENT}
COPY team.py /own/
ENTRYPOINT ["python", "/own/team.py"]
"""
_ENDED = "SELECT status, count(*) FROM flotilla.runs WHERE session_id LIKE $1 || '-%' GROUP BY status"
_EXECUTED = "SELECT action_id FROM flotilla.action_executions WHERE action = 'publish_brief'"


@pytest.fixture(scope="module")
def images(cluster: None, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The team's images by what they are of: its workflow, its agents."""
    team = tmp_path_factory.mktemp("team")
    wheels = team / "wheels"
    succeed("make", "wheels", f"WHEELS={wheels}")
    succeed(FLOTILLA, "new", "workflow", "brief", "--into", team, "--wheels", wheels)
    _write_workflow(team / "brief-workflow")
    _write_agents(team / "team-agent")
    made = {name: f"localhost/team/{name}:{TAG}" for name in ("brief-worker", "team-agent")}
    build_image(team / "brief-workflow", made["brief-worker"], WORKER_IMAGE=f"{REPOSITORY}/workflow-worker:{TAG}")
    build_image(team / "team-agent", made["team-agent"], AGENT=f"{REPOSITORY}/research-agent:{TAG}")
    return made


def _write_workflow(package: Path) -> None:
    """The planner of tests/support in place of the template's workflow, with its action."""
    source = BRIEFINGS.read_text().replace('"write"', '"drafter"')
    (package / "brief_workflow/workflow.py").write_text(source)
    project = package / "pyproject.toml"
    project.write_text(project.read_text() + ACTION)


def _write_agents(folder: Path) -> None:
    """One image for the team's three agents, over that of an agent of the fleet."""
    folder.mkdir()
    (folder / "team.py").write_text(TEAM)
    (folder / "Dockerfile").write_text(TEAM_IMAGE)


@pytest.fixture(scope="module")
def fleet(images: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    """A fleet with the team's worker and agents, whose action writes into a volume."""
    values = tmp_path_factory.mktemp("values") / "team.json"
    values.write_text(json.dumps(_values(images)))
    with own_namespace("own-workflow") as namespace:
        _apply(namespace, "ConfigMap", "two-people", data={"policy.toml": POLICY})
        claim = {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "10Mi"}}}
        _apply(namespace, "PersistentVolumeClaim", "briefs", spec=claim)
        made = Fleet(namespace, ("--values", str(values)))
        made.install()
        _let_processes_be_killed(namespace)
        asyncio.run(namespace.all_ready(READY_WITHIN_S))
        yield made


def _values(images: dict[str, str]) -> Object:
    def image(name: str) -> dict[str, str]:
        repository, _, tag = images[name].rpartition(":")
        return {"repository": repository, "tag": tag}

    return {
        "global": {"approvalPolicy": {"builtin": "", "existingConfigMap": "two-people"}},
        "agents": {
            agent: {"image": image("team-agent"), "extraEnv": [{"name": "TEAM_AGENT", "value": agent}]}
            for agent in AGENTS
        },
        "workers": {
            "brief": {
                "image": image("brief-worker"),
                "extraEnv": [{"name": "BRIEFS_FOLDER", "value": "/briefs"}],
                "extraVolumes": [{"name": "briefs", "persistentVolumeClaim": {"claimName": "briefs"}}],
                "extraVolumeMounts": [{"name": "briefs", "mountPath": "/briefs"}],
            }
        },
    }


def _apply(namespace: Namespace, kind: str, name: str, **content: object) -> None:
    version = {"apiVersion": "v1", "kind": kind, "metadata": {"name": name}}
    namespace.kubectl("apply", "--filename", "-", stdin=json.dumps(version | content))


def _let_processes_be_killed(namespace: Namespace) -> None:
    """A container's first process can't be killed from inside, unless its pod shares its processes."""
    patch = json.dumps({"spec": {"template": {"spec": {"shareProcessNamespace": True}}}})
    for server in SERVERS:
        namespace.kubectl("patch", "deployment", f"flotilla-demo-{server}", "--patch", patch)


async def test_twenty_runs_of_a_teams_own_workflow_end_once_while_each_pod_is_killed(
    fleet: Fleet, unique: Callable[[str], str], figures: Figures
) -> None:
    batch, began = unique("brief"), time.monotonic()
    with fleet.reached() as reached:
        async with reached.client() as admin:
            # Of a service's request its admin is a side, and so is who has a key from them.
            starter, *people = [await key_of(admin, unique(person)) for person in ("dora", "alice", "bob")]
    runs: dict[str, str] = {}
    for number, victim in enumerate(VICTIMS):
        due = (number + 1) * RUNS // len(VICTIMS)
        sessions = [f"{batch}-{count}" for count in range(len(runs), due)]
        with fleet.reached() as reached:
            runs |= {session: await _started(Reached(reached.url, starter), session) for session in sessions}
        killed = time.monotonic()
        await _killed(fleet.namespace, victim)
        figures.append(f"{victim} killed at work: ready again after {time.monotonic() - killed:.0f} s")
        with fleet.reached() as reached:
            await _approve_all(reached, people)

    await eventually(lambda: _all_ended(fleet, people, batch), timeout_s=600, every_s=2)
    figures.append(f"{RUNS} runs, {len(VICTIMS)} kills: all ended after {time.monotonic() - began:.0f} s")
    await _check(fleet, starter, runs)
    await check_history(fleet, batch)
    with fleet.reached() as reached:
        reached.cli("audit", "verify")


async def _check(fleet: Fleet, starter: str, runs: dict[str, str]) -> None:
    """Each run did each step once and published once; its history has all of it, without a gap."""
    with fleet.reached() as reached:
        async with reached.client(starter) as client:
            for session_id, run_id in runs.items():
                run = await finished(client, run_id)
                assert (run["status"], run["output"]) == ("success", {"text": "over 1 notes", "rounds": 2}), run
                events = await session_events(client, session_id)
                changes = Counter(event["data"].get("change") for event in events if event.get("runid") == run_id)
                assert changes["run_step_finished"] == STEPS, changes
                assert (changes["run_started"], changes["run_finished"], changes["variables_set"]) == (1, 1, 1)
                assert [event["sequence"] for event in events] == list(range(1, len(events) + 1))
    actions = sorted(f"{run_id}.publish_brief" for run_id in runs.values())
    async with fleet.database() as database:
        assert sorted(row["action_id"] for row in await database.fetch(_EXECUTED)) == actions
    (pod,) = fleet.namespace.pods(WORKER)
    listed = fleet.namespace.kubectl("exec", pod["metadata"]["name"], "--", "ls", "/briefs").split()
    assert len(listed) == len(runs), listed


async def _started(reached: Reached, session: str) -> str:
    """The run's id. A gateway whose servers are not back yet is asked again."""

    async def accepted() -> str | None:
        async with reached.client() as client:
            body = {"workflow": "brief", "input": {"topic": session}}
            answer = await client.post(f"/v1/sessions/{session}/runs", json=body, headers={"Idempotency-Key": session})
        if answer.is_server_error:
            return None
        assert answer.is_success, answer.text
        return str(answer.json()["run_id"])

    return str(await eventually(accepted, timeout_s=60, every_s=1))


async def _killed(namespace: Namespace, victim: str) -> None:
    """Returns when what was killed is there again, and ready."""
    (before,) = namespace.pods(victim)
    name = before["metadata"]["name"]
    if victim in SERVERS:
        namespace.kubectl("exec", name, "--", "sh", "-c", "kill -9 -1", check=False)
    else:
        namespace.killed(name)

    def replaced() -> bool:
        pods = namespace.pods(victim)
        return len(pods) == 1 and _life(pods[0]) != _life(before) and _is_ready(pods[0])

    await eventually(replaced, timeout_s=180, every_s=0.5)
    await namespace.all_ready(300)


def _life(pod: Object) -> tuple[str, int]:
    return pod["metadata"]["name"], sum(state["restartCount"] for state in pod["status"].get("containerStatuses", []))


def _is_ready(pod: Object) -> bool:
    return any(each["type"] == "Ready" and each["status"] == "True" for each in pod["status"].get("conditions", []))


async def _all_ended(fleet: Fleet, people: list[str], batch: str) -> bool:
    with fleet.reached() as reached:
        await _approve_all(reached, people)
    async with fleet.database() as database:
        return {row["status"]: row["count"] for row in await database.fetch(_ENDED, batch)} == {"success": RUNS}


async def _approve_all(reached: Reached, people: list[str]) -> None:
    """Everybody's vote for what waits, where it is not there yet. What the gateway can't take now comes up again."""
    for key in people:
        async with reached.client(key) as client:
            answer = await client.get("/v1/approvals", params={"status": "pending", "limit": 200})
            for one in answer.json()["approvals"] if answer.is_success else ():
                vote = {"decision": "approve", "content_hash": one["content_hash"], "reason": "read it"}
                decided = await client.post(f"/v1/approvals/{one['approval_id']}/decision", json=vote)
                assert decided.status_code in (200, 409) or decided.is_server_error, decided.text
