"""`k8s/dependencies` and `k8s/gitops` against the charts and custom resources they are for (tests/charts/upstream)."""

import gzip
import json
import re
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest
import yaml

from tests.charts.conftest import ROOT, Helm, Manifest, of_kind

DEPENDENCIES = ROOT / "k8s/dependencies"
UPSTREAM = Path(__file__).parent / "upstream"
OPERATED = ("dependencies/kafka.yaml", "dependencies/postgres.yaml", "gitops/argocd.yaml", "gitops/flux.yaml")
CHARTS = {"temporal": "temporal-1.6.0.tgz", "valkey": "valkey-0.11.0.tgz"}
# What the Pod Security standard `restricted` admits.
VOLUMES = {
    "configMap",
    "csi",
    "downwardAPI",
    "emptyDir",
    "ephemeral",
    "persistentVolumeClaim",
    "projected",
    "secret",
    "name",
}


def _render(helm: Helm, chart: str) -> list[Manifest]:
    values = DEPENDENCIES / f"{chart}-values.yaml"
    done = helm("template", f"flotilla-{chart}", str(UPSTREAM / CHARTS[chart]), "-n", "flotilla", "-f", str(values))
    assert done.returncode == 0, done.stderr
    return [each for each in yaml.safe_load_all(done.stdout) if each]


def _pods(manifests: list[Manifest]) -> dict[str, dict[str, Any]]:
    owners = [each for each in manifests if each["kind"] in ("Deployment", "StatefulSet", "Job")]
    return {each["metadata"]["name"]: each["spec"]["template"]["spec"] for each in owners}


def not_restricted(pod: dict[str, Any]) -> list[str]:
    """What the Pod Security standard `restricted` refuses in a pod, by container."""
    shared = pod.get("securityContext", {})
    problems = [f"volume {each}" for each in pod.get("volumes", []) if not each.keys() <= VOLUMES]
    for container in (*pod["containers"], *pod.get("initContainers", [])):
        own = container.get("securityContext", {})
        both = shared | own
        wanted = {
            "runAsNonRoot": both.get("runAsNonRoot") is True,
            "runAsUser": both.get("runAsUser") != 0,
            "seccompProfile": both.get("seccompProfile", {}).get("type") in ("RuntimeDefault", "Localhost"),
            "allowPrivilegeEscalation": own.get("allowPrivilegeEscalation") is False,
            "capabilities": own.get("capabilities", {}).get("drop") == ["ALL"],
        }
        problems += [f"{container['name']}: {name}" for name, fits in wanted.items() if not fits]
    return problems


@pytest.mark.parametrize("chart", CHARTS)
def test_the_charts_pods_fit_the_namespaces_standard(helm: Helm, chart: str) -> None:
    pods = _pods(_render(helm, chart))

    assert pods
    assert {name: problems for name, pod in pods.items() if (problems := not_restricted(pod))} == {}


def test_temporal_is_two_of_each_on_the_postgresql_beside_it(helm: Helm) -> None:
    manifests = _render(helm, "temporal")
    (cluster,) = [each for each in _resources("dependencies/postgres.yaml") if each["kind"] == "Cluster"]
    databases = {
        each["spec"]["name"]: each["spec"]["owner"]
        for each in _resources("dependencies/postgres.yaml")
        if each["kind"] == "Database"
    }
    (config,) = [each for each in of_kind(manifests, "ConfigMap") if "config_template.yaml" in each["data"]]
    # The server fills it in when it starts; these parts are not in what is compared here.
    filled = re.sub(r"{{.*?}}", "filled", config["data"]["config_template.yaml"])
    stores = yaml.safe_load(filled)["persistence"]["datastores"]

    assert {name: store["sql"]["databaseName"] for name, store in stores.items()} == {
        "default": "temporal", "visibility": "temporal_visibility",
    }  # fmt: skip
    for store in stores.values():
        assert store["sql"]["connectAddr"] == f"{cluster['metadata']['name']}-rw:5432"
        assert databases[store["sql"]["databaseName"]] == store["sql"]["user"]
    roles = {each["name"]: each["passwordSecret"]["name"] for each in cluster["spec"]["managed"]["roles"]}
    assert roles == {"temporal": "temporal-postgres"}
    servers = {each["metadata"]["name"]: each["spec"]["replicas"] for each in of_kind(manifests, "Deployment")}
    assert [servers[f"flotilla-temporal-{kind}"] for kind in ("frontend", "history", "matching", "worker")] == [2] * 4


def test_postgresql_has_connections_for_the_fleet_and_for_temporal() -> None:
    (cluster,) = [each for each in _resources("dependencies/postgres.yaml") if each["kind"] == "Cluster"]
    production = yaml.safe_load((ROOT / "charts/flotilla/values-production.yaml").read_text(encoding="utf-8"))
    temporal = yaml.safe_load((DEPENDENCIES / "temporal-values.yaml").read_text(encoding="utf-8"))["server"]
    stores = temporal["config"]["persistence"]["datastores"].values()

    fleet = production["global"]["dependencies"]["postgres"]["maxConnections"]
    asked = fleet + sum(store["sql"]["maxConns"] for store in stores) * temporal["replicaCount"] * 4
    own = 20  # replication, the operator, an administrator
    assert asked + own <= int(cluster["spec"]["postgresql"]["parameters"]["max_connections"])


def test_valkey_keeps_its_streams_over_a_restart(helm: Helm) -> None:
    manifests = _render(helm, "valkey")
    (pod,) = _pods(manifests).values()
    volumes = {each["name"]: each for each in pod["volumes"]}
    (claim,) = of_kind(manifests, "PersistentVolumeClaim")

    (data,) = [each["name"] for each in pod["containers"][0]["volumeMounts"] if each["mountPath"] == "/data"]
    assert volumes[data]["persistentVolumeClaim"]["claimName"] == claim["metadata"]["name"]
    config = "\n".join(text for each in of_kind(manifests, "ConfigMap") for text in each["data"].values())
    assert {"appendonly yes", "maxmemory-policy noeviction", "maxmemory 1536mb"} <= {
        line.strip() for line in config.splitlines()
    }


def _resources(file: str) -> list[Manifest]:
    return list(yaml.safe_load_all((ROOT / "k8s" / file).read_text(encoding="utf-8")))


def _strict(schema: Any) -> Any:
    """The schema, refusing fields that it does not name, as `kubectl apply` does."""
    if isinstance(schema, list):
        return [_strict(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    result = {key: _strict(each) for key, each in schema.items()}
    if schema.get("x-kubernetes-int-or-string"):
        result.pop("type", None)
    open_ended = schema.get("x-kubernetes-preserve-unknown-fields") or "additionalProperties" in schema
    if isinstance(schema.get("properties"), dict) and not open_ended:
        result["additionalProperties"] = False
    return result


def _problems(resource: Manifest) -> list[str]:
    schemas = json.loads(gzip.decompress((UPSTREAM / "crds.json.gz").read_bytes()))
    schema = _strict(schemas[f"{resource['apiVersion']}/{resource['kind']}"])
    schema["properties"]["metadata"] = {"type": "object"}
    return [error.message for error in jsonschema_rs.validator_for(schema).iter_errors(resource)]


@pytest.mark.parametrize("file", OPERATED)
def test_the_operators_take_each_resource(file: str) -> None:
    resources = _resources(file)

    assert resources
    assert {each["metadata"]["name"]: problems for each in resources if (problems := _problems(each))} == {}


def test_a_misspelled_field_of_a_resource_is_found() -> None:
    kafka = next(each for each in _resources("dependencies/kafka.yaml") if each["kind"] == "Kafka")
    kafka["spec"]["kafka"]["listener"] = kafka["spec"]["kafka"].pop("listeners")

    assert any("listener" in problem for problem in _problems(kafka))
