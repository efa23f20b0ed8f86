"""An empty cluster, one `helm install`, one question, and nothing left: in this order."""

from typing import Any

from tests.cluster.fleet import RELEASE, Fleet, Reached, empty
from tests.e2e.fleet import finished, session_events, start_run
from tests.e2e.test_one_question import HANDBOOK, upload
from tests.support.catalog import SERVICES
from tests.support.waiting import eventually


async def test_every_pod_is_ready_and_none_was_restarted(fleet: Fleet) -> None:
    """In a namespace that enforces `restricted`."""
    pods = fleet.namespace.pods()
    assert {pod["metadata"]["labels"]["app.kubernetes.io/name"] for pod in pods} >= set(SERVICES)
    restarts = {pod["metadata"]["name"]: pod["status"]["containerStatuses"][0]["restartCount"] for pod in pods}
    assert not any(restarts.values()), f"{restarts}\n{fleet.namespace.diagnosis()}"


async def test_helm_test_passes_for_every_service(fleet: Fleet) -> None:
    said = fleet.namespace.helm("test", RELEASE, "--timeout", "5m")
    assert said.count("Succeeded") == len(SERVICES), said


async def test_a_question_is_answered_with_sources_and_a_verified_log(fleet: Fleet) -> None:
    with fleet.reached() as reached:
        async with reached.client() as client:
            await upload(client, "harbour.md", HANDBOOK)
            question = "Who inspects the mooring lines at Northquay?"
            run = await finished(client, await start_run(client, "harbour", question, "harbour-1"), timeout_s=120)
            events = await session_events(client, "harbour")
            verified = await eventually(lambda: _verified(client, len(events)), timeout_s=120, every_s=1)

        assert run["status"] == "success", run
        assert "harbour master" in run["result"]["answer"]
        titles = [source["title"] for source in run["result"]["sources"]]
        assert titles
        assert all(title.startswith("Harbour handbook") for title in titles), titles
        assert [event["sequence"] for event in events] == list(range(1, len(events) + 1))
        assert verified["ok"], verified
        assert verified["signatures_checked"], verified
        assert "Northquay" in _asked_by_cli(reached)


async def _verified(client: Any, events: int) -> Any:
    """The verification of the session's chain, once a signed checkpoint vouches for all events."""
    answer = await client.get("/v1/audit/verify", params={"session_id": "harbour"})
    assert answer.status_code == 200, answer.text
    report = answer.json()
    return report if [each["anchored_seq"] for each in report["sessions"]] == [events] else None


def _asked_by_cli(reached: Reached) -> str:
    return reached.cli("ask", "Where is diesel sold at Northquay?", "--session", "harbour")


async def test_an_upgrade_keeps_the_demos_passwords(fleet: Fleet) -> None:
    before = _secrets(fleet)
    fleet.upgrade()
    await fleet.namespace.all_ready(300)

    assert _secrets(fleet) == before


def _secrets(fleet: Fleet) -> dict[str, Any]:
    found = fleet.namespace.get("secrets", "--selector", "app.kubernetes.io/component=demo")
    assert len(found) == 7
    return {secret["metadata"]["name"]: secret["data"] for secret in found}


async def test_uninstalling_leaves_nothing(fleet: Fleet) -> None:
    """As NOTES says: the demo's servers are part of the release."""
    fleet.namespace.helm("uninstall", RELEASE, "--wait")

    await empty(fleet.namespace)
