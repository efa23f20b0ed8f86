"""Pods of other namespaces, and addresses outside the cluster, against every pod that the umbrella chart can make."""

from typing import Any

import pytest

from tests.charts.conftest import Manifest, Render, of_kind
from tests.charts.policies import Place, ingress_allowed

ALL = (
    "agents.translate.replicas=2",
    "workers.refunds.replicas=1",
    "global.dependencies.postgres.maxConnections=900",
    "backup.enabled=true",
    "backup.claim=backups",
    "backup.keysSecret=backup-keys",
)
STRANGERS = {
    "another namespace": Place(namespace="default"),
    "dressed as the gateway": Place(namespace="evil", labels={"app.kubernetes.io/name": "gateway"}),
    "dressed as Prometheus": Place(namespace="evil", labels={"app.kubernetes.io/name": "prometheus"}),
    "a namespace that is labelled monitoring": Place(namespace="evil", namespace_labels={"name": "monitoring"}),
    "a namespace with a name that begins alike": Place(namespace="monitoring-evil"),
    "an address outside": Place(address="203.0.113.7"),
    "an address of IPv6": Place(address="2001:db8::7"),
}


def pods_of(manifests: list[Manifest]) -> dict[str, Manifest]:
    """The pod templates by their owners' names, and pods."""
    found: dict[str, Any] = {each["metadata"]["name"]: each for each in of_kind(manifests, "Pod")}
    for kind in ("Deployment", "StatefulSet", "Job"):
        found |= {each["metadata"]["name"]: each["spec"]["template"] for each in of_kind(manifests, kind)}
    jobs = of_kind(manifests, "CronJob")
    return found | {each["metadata"]["name"]: each["spec"]["jobTemplate"]["spec"]["template"] for each in jobs}


@pytest.mark.parametrize("name", ["demo", "production"])
def test_no_stranger_calls_any_pod(render: Render, name: str) -> None:
    manifests = render("flotilla", *ALL, files=(f"flotilla/values-{name}.yaml",))
    policies, pods = of_kind(manifests, "NetworkPolicy"), pods_of(manifests)
    assert len(pods) > 9
    let_in = {
        (pod, who)
        for pod, template in pods.items()
        for who, place in STRANGERS.items()
        if ingress_allowed(policies, template, place)
    }
    assert let_in == set()
    scraped = [pod for pod in pods.values() if ingress_allowed(policies, pod, Place(namespace="monitoring"))]
    assert len(scraped) > 5, "the one that is named is let in"
