"""Two fleets under one Prometheus, and an agent of the first in its own namespace: a fault is its fleet's alone."""

import asyncio
import json
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass

import pytest

from tests.cluster.conftest import READY_WITHIN_S, own_namespace
from tests.cluster.faults import QUESTION, asked_all_the_time, dead_letter, scaled_to_none
from tests.cluster.fleet import RELEASE, Fleet, images, installed
from tests.cluster.kubernetes import Namespace
from tests.cluster.prometheus import Prometheus, prometheus
from tests.e2e.fleet import finished, start_run
from tests.e2e.test_one_question import HANDBOOK, upload
from tests.support.waiting import eventually

pytestmark = pytest.mark.full
OWN = "own"
"""The release of the agent."""


@dataclass(frozen=True)
class Fleets:
    """The first fleet's research agent is in `agents`."""

    first: Fleet
    second: Fleet
    agents: Namespace


@pytest.fixture(scope="module")
def fleets(cluster: None) -> Iterator[Fleets]:
    """All of them, ready."""
    with ExitStack() as stack:
        names = ("first-fleet", "second-fleet", "agents")
        first, second, agents = (stack.enter_context(own_namespace(name)) for name in names)
        made = Fleets(Fleet(first, ("--set", "research-agent.enabled=false")), Fleet(second), agents)
        asyncio.run(_install(made))
        yield made


@pytest.fixture(scope="module")
def watched(fleets: Fleets, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    """One Prometheus for all; the agent's release says by its relabelings which fleet it belongs to."""
    first = fleets.first.namespace
    namespaces = [first, fleets.second.namespace, fleets.agents]
    folder = tmp_path_factory.mktemp("prometheus")
    belongs = {fleets.agents.name: {"namespace": first.name, "release": RELEASE}}
    with (
        prometheus(namespaces, folder, belongs) as server,
        asked_all_the_time(fleets.first),
        asked_all_the_time(fleets.second),
    ):
        asyncio.run(eventually(server.is_up, timeout_s=60, every_s=0.5))
        yield server


@pytest.mark.parametrize("name", ["first", "second"])
async def test_a_question_is_answered(fleets: Fleets, name: str) -> None:
    """Of the first by the agent in another namespace."""
    with getattr(fleets, name).reached() as reached:
        async with reached.client() as client:
            await upload(client, "harbour.md", HANDBOOK)
            run = await finished(client, await start_run(client, "one", QUESTION, "one"), timeout_s=180)

    assert run["status"] == "success", run
    assert run["result"]["sources"]


async def test_a_fault_of_one_fleet_fires_for_that_one_alone(fleets: Fleets, watched: Prometheus) -> None:
    alert = ("FlotillaDeadLetters", fleets.second.namespace.name)
    began = await _calm(watched)

    async with dead_letter(fleets.second):
        await eventually(lambda: alert in watched.firing_where(), timeout_s=300, every_s=2)

    await _calm(watched)
    assert watched.fired_where(began) == {alert}


async def test_an_agent_that_is_away_fires_for_the_fleet_that_it_belongs_to(
    fleets: Fleets, watched: Prometheus
) -> None:
    alert = ("FlotillaStreamStuck", fleets.first.namespace.name)
    began = await _calm(watched)

    async with scaled_to_none(fleets.agents, f"{OWN}-research-agent"):
        await eventually(lambda: alert in watched.firing_where(), timeout_s=300, every_s=2)

    await _calm(watched)
    assert watched.fired_where(began) == {alert}


async def _install(fleets: Fleets) -> None:
    await installed(fleets.first, READY_WITHIN_S)
    _install_agent(fleets)
    await installed(fleets.second, READY_WITHIN_S)
    await fleets.agents.all_ready(READY_WITHIN_S)


def _install_agent(fleets: Fleets) -> None:
    """With the fleet's own credentials for it, copied, and its servers by their long names."""
    servers, agents = fleets.first.namespace, fleets.agents
    redis = servers.secret("flotilla-demo-redis", "research-agent")
    secret = {
        "flotilla_agent_research": servers.secret("flotilla-demo-postgres", "flotilla_agent_research"),
        "research-agent": redis.replace("flotilla-demo-redis:", f"flotilla-demo-redis.{servers.name}.svc:"),
    }
    (keys,) = [each for each in servers.get("configmaps") if each["metadata"]["name"] == "flotilla-demo-tickets"]
    for kind, content in (("Secret", {"stringData": secret}), ("ConfigMap", {"data": keys["data"]})):
        manifest = {"apiVersion": "v1", "kind": kind, "metadata": {"name": "of-the-fleet"}, **content}
        agents.kubectl("apply", "--filename", "-", stdin=json.dumps(manifest))
    values = (
        "agent.name=research",
        "global.dependencies.postgres.existingSecret=of-the-fleet",
        "global.dependencies.redis.existingSecret=of-the-fleet",
        f"global.dependencies.redis.address=flotilla-demo-redis.{servers.name}.svc:6379",
        "global.ticketPublicKeys.existingConfigMap=of-the-fleet",
        "global.approvalPolicy.builtin=local",
    )
    options = [word for value in values for word in ("--set", value)]
    agents.helm("install", OWN, "charts/agent", *options, *images())


async def _calm(watched: Prometheus) -> float:
    """The time from which nothing fires."""
    await eventually(lambda: not watched.firing_where(), timeout_s=300, every_s=2)
    return time.time()
