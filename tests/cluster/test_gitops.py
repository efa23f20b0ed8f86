"""What Argo CD and Flux do with the chart: the server applies one render over the other, and over what others changed.

The namespace admits no pods, so nothing starts; kinds of operators that the cluster lacks take any content.
"""

import json
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from tests.cluster.fleet import RELEASE
from tests.cluster.kubernetes import ROOT, Namespace, Object

GITOPS = ROOT / "k8s/gitops"
OPERATORS = {
    "ScaledObject": "keda.sh/v1alpha1",
    "TriggerAuthentication": "keda.sh/v1alpha1",
    "PodMonitor": "monitoring.coreos.com/v1",
    "PrometheusRule": "monitoring.coreos.com/v1",
}
MANAGER = "--field-manager=gitops"


def _values(file: str) -> dict[str, Any]:
    """What a tool's example sets over values-production.yaml."""
    for each in yaml.safe_load_all((GITOPS / file).read_text(encoding="utf-8")):
        if each["kind"] == "Application":
            return dict(each["spec"]["source"]["helm"]["valuesObject"])
        if each["kind"] == "HelmRelease":
            return dict(each["spec"]["values"])
    raise AssertionError(f"{file} has no values")


@pytest.fixture(scope="module")
def operators(namespace: Namespace) -> Iterator[None]:
    """Definitions for the kinds that the cluster lacks; gone afterwards."""
    known = namespace.run("kubectl", "api-resources", "--output", "name").split()
    lacking = [_definition(kind, version) for kind, version in OPERATORS.items() if _plural(kind, version) not in known]
    names = [each["metadata"]["name"] for each in lacking]
    manifest = json.dumps({"apiVersion": "v1", "kind": "List", "items": lacking})
    namespace.run("kubectl", "apply", "--filename", "-", stdin=manifest)
    for name in names:
        namespace.run("kubectl", "wait", "--for=condition=Established", f"crd/{name}", "--timeout=60s")
    yield
    if names:
        namespace.run("kubectl", "delete", "crd", *names)


@pytest.fixture
def without_pods(namespace: Namespace, operators: None) -> Iterator[Namespace]:
    """The namespace, which admits no pods; what was made in it goes with it."""
    namespace.kubectl("create", "resourcequota", "no-pods", "--hard=pods=0")
    yield namespace
    namespace.kubectl("delete", "resourcequota", "no-pods")


@pytest.mark.parametrize("tool", ["argocd.yaml", "flux.yaml"])
def test_one_render_is_applied_over_another_and_over_what_autoscalers_changed(
    without_pods: Namespace, tool: str
) -> None:
    namespace, values = without_pods, json.dumps(_values(tool))
    first, second = (_rendered(namespace, values, tag) for tag in ("1.0.0", "1.0.1"))
    _apply(namespace, first)
    assert _differences(namespace, first) == ""
    namespace.kubectl("scale", f"deployment/{RELEASE}-gateway", "--replicas=5")
    assert _differences(namespace, first) == "", "an autoscaler's replicas are its own"
    before, jobs = _by_name(namespace, "deployments"), _by_name(namespace, "jobs")

    _apply(namespace, second)

    assert _differences(namespace, second) == ""
    after = _by_name(namespace, "deployments")
    assert after.keys() == before.keys()
    assert {_tag(each) for each in after.values()} == {"1.0.1"}
    assert len(_by_name(namespace, "jobs").keys() - jobs.keys()) == 1, "another tag is another install Job"
    namespace.kubectl(
        "delete", "--wait=false", "--ignore-not-found", "--filename", "-", stdin=f"{first}\n---\n{second}"
    )


def _apply(namespace: Namespace, manifests: str) -> None:
    """As a tool does that has no other way to change what is there: conflicts are errors."""
    namespace.kubectl("apply", "--server-side", MANAGER, "--filename", "-", stdin=manifests)


def _differences(namespace: Namespace, manifests: str) -> str:
    """What applying it would change, each time of three; kubectl's words when it can't say.

    kubectl reads an object before and after: a controller that writes its status in between is a difference, too.
    """
    found = ""
    for _ in range(3):
        found = namespace.kubectl("diff", "--server-side", MANAGER, "--filename", "-", stdin=manifests, check=False)
        if not found:
            break
    return found


def _rendered(namespace: Namespace, values: str, tag: str) -> str:
    """Without the release's tests, which both tools leave out."""
    files = ("--values", "charts/flotilla/values-production.yaml", "--values", "-")
    options = ("--set", f"global.image.tag={tag}", "--no-hooks")
    command = ("helm", "template", RELEASE, "charts/flotilla", "--namespace", namespace.name, *files, *options)
    return namespace.run(*command, stdin=values)


def _by_name(namespace: Namespace, kind: str) -> dict[str, Object]:
    return {each["metadata"]["name"]: each for each in namespace.get(kind)}


def _tag(deployment: Object) -> str:
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    return str(container["image"]).rpartition(":")[2]


def _plural(kind: str, version: str) -> str:
    return f"{kind.lower()}s.{version.partition('/')[0]}"


def _definition(kind: str, version: str) -> Object:
    group, _, number = version.partition("/")
    names = {"kind": kind, "plural": f"{kind.lower()}s", "singular": kind.lower()}
    schema = {"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": True}}
    served = {"name": number, "served": True, "storage": True, "schema": schema}
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": _plural(kind, version)},
        "spec": {"group": group, "names": names, "scope": "Namespaced", "versions": [served]},
    }
