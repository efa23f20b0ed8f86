"""What operators set on any service, and on the whole fleet."""

import re
from typing import Any

import pytest
import yaml

from tests.charts.conftest import ALONE, Helm, Manifest, Render, of_kind, template
from tests.charts.policies import Place, egress_allowed
from tests.support.catalog import SERVICES

DEMO = ("flotilla/values-demo.yaml",)
PRODUCTION = ("flotilla/values-production.yaml",)


def _deployment(manifests: list[Manifest]) -> Manifest:
    (deployment,) = of_kind(manifests, "Deployment")
    return deployment


def _pod(manifests: list[Manifest]) -> dict[str, Any]:
    pod = _deployment(manifests)["spec"]["template"]["spec"]
    assert isinstance(pod, dict)
    return pod


def _environment(container: dict[str, Any]) -> dict[str, Any]:
    return {each["name"]: each.get("value") for each in container["env"]}


def test_a_route_of_the_gateway_api_leads_to_the_service(render: Render) -> None:
    values = ("httpRoute.enabled=true", "httpRoute.parentRefs[0].name=public", "httpRoute.hostnames[0]=f.example.com")
    manifests = render("gateway", *ALONE, *values)

    (route,), (service,) = of_kind(manifests, "HTTPRoute"), [
        each for each in of_kind(manifests, "Service") if not each["metadata"]["name"].endswith("-health")
    ]  # fmt: skip
    assert route["spec"]["parentRefs"] == [{"name": "public"}]
    assert route["spec"]["hostnames"] == ["f.example.com"]
    ((backend,),) = [rule["backendRefs"] for rule in route["spec"]["rules"]]
    assert (backend["name"], backend["port"]) == (service["metadata"]["name"], service["spec"]["ports"][0]["port"])


@pytest.mark.parametrize(
    "values",
    [
        ("ipFamilyPolicy=PreferDualStack", "bindAddress=::", "ipFamilies[0]=IPv6"),
        ("global.ipFamilyPolicy=PreferDualStack", "global.bindAddress=::", "global.ipFamilies[0]=IPv6"),
    ],
)
def test_services_and_their_ports_speak_ipv6(render: Render, values: tuple[str, ...]) -> None:
    manifests = render("gateway", *ALONE, *values)

    for service in of_kind(manifests, "Service"):
        assert service["spec"]["ipFamilyPolicy"] == "PreferDualStack"
        assert service["spec"]["ipFamilies"] == ["IPv6"]
    environment = _environment(_pod(manifests)["containers"][0])
    assert (environment["FLOTILLA_METRICS_HOST"], environment["FLOTILLA_HTTP_HOST"]) == ("::", "::")


def test_mcp_clients_reach_the_gateway_by_the_names_that_the_cluster_knows(render: Render) -> None:
    ingress = ("ingress.enabled=true", "ingress.hosts[0]=f.example.com")
    manifests = render("gateway", *ALONE, *ingress)

    [metadata] = [each["metadata"] for each in of_kind(manifests, "Service") if each["spec"]["ports"][0]["port"] == 80]
    name, namespace = metadata["name"], metadata["namespace"]
    hosts = _environment(_pod(manifests)["containers"][0])["FLOTILLA_MCP_HOSTS"].split(",")
    inside = f"{name}.{namespace}"
    assert hosts == [name, inside, f"{inside}.svc", f"{inside}.svc.cluster.local", "f.example.com"]
    own = render("gateway", *ALONE, *ingress, "settings.FLOTILLA_MCP_HOSTS=fleet.internal")
    assert _environment(_pod(own)["containers"][0])["FLOTILLA_MCP_HOSTS"] == "fleet.internal"
    assert "FLOTILLA_MCP_HOSTS" not in _environment(_pod(render("outbox-relay", *ALONE))["containers"][0])


@pytest.mark.parametrize("chart", ["gateway", "workflow-worker"])
def test_the_fleet_says_how_many_runs_may_be_open_and_a_service_may_say_otherwise(render: Render, chart: str) -> None:
    fleet = ("global.openRuns.perPerson=5", "global.openRuns.perTenant=2000000")
    environment = _environment(_pod(render(chart, *ALONE, *fleet, "openRuns.perPerson=7"))["containers"][0])
    assert {name: value for name, value in environment.items() if name.startswith("FLOTILLA_OPEN_RUNS_")} == {
        "FLOTILLA_OPEN_RUNS_PER_PERSON": "7",
        "FLOTILLA_OPEN_RUNS_PER_TENANT": "2000000",
    }
    without = _environment(_pod(render(chart, *ALONE))["containers"][0])
    assert not any(name.startswith("FLOTILLA_OPEN_RUNS_") for name in without)


def test_a_pod_takes_further_containers_and_its_own_stays_the_first(render: Render) -> None:
    values = (
        "initContainers[0].name=wait", "initContainers[0].image=busybox:1",
        "extraContainers[0].name=proxy-{{ .Release.Name }}", "extraContainers[0].image=proxy:1",
        "runtimeClassName=gvisor", "deploymentAnnotations.owner=team-a",
    )  # fmt: skip
    manifests = render("outbox-relay", *ALONE, *values)

    pod = _pod(manifests)
    assert [each["name"] for each in pod["initContainers"]] == ["wait"]
    assert [each["name"] for each in pod["containers"]] == ["outbox-relay", "proxy-fleet"]
    assert pod["runtimeClassName"] == "gvisor"
    assert _deployment(manifests)["metadata"]["annotations"] == {"owner": "team-a"}


def test_series_name_their_release_and_take_further_relabelings(render: Render) -> None:
    values = (
        "metrics.podMonitor.enabled=true",
        "metrics.podMonitor.relabelings[0].targetLabel=cluster",
        "metrics.podMonitor.relabelings[0].replacement=one",
        "metrics.podMonitor.metricRelabelings[0].action=drop",
    )
    (monitor,) = of_kind(render("workflow-worker", *ALONE, *values), "PodMonitor")

    endpoints = monitor["spec"]["podMetricsEndpoints"]
    assert [each["port"] for each in endpoints] == ["metrics", "metrics-sdk"]
    for endpoint in endpoints:
        release, own = endpoint["relabelings"]
        assert release == {
            "sourceLabels": ["__meta_kubernetes_pod_label_app_kubernetes_io_instance"],
            "targetLabel": "release",
        }
        assert own["targetLabel"] == "cluster"
        assert endpoint["metricRelabelings"] == [{"action": "drop"}]


def test_every_object_goes_where_the_namespace_override_says(render: Render) -> None:
    manifests = render("flotilla", "global.namespaceOverride=elsewhere", files=DEMO)

    assert {each["metadata"]["namespace"] for each in manifests} == {"elsewhere"}
    assert "flotilla.svc" not in yaml.safe_dump(manifests)


@pytest.mark.parametrize("files", [DEMO, PRODUCTION])
def test_every_object_and_pod_has_the_fleets_labels(render: Render, files: tuple[str, ...]) -> None:
    manifests = render("flotilla", "global.commonLabels.team=a", "gateway.commonLabels.team=b", files=files)

    labels = {each["metadata"]["labels"].get("team") for each in manifests if "demo" not in each["metadata"]["name"]}
    assert labels == {"a", "b"}
    owners = of_kind(manifests, "Deployment") + of_kind(manifests, "Job")
    pods = [each["spec"]["template"] for each in owners if "demo" not in each["metadata"]["name"]]
    assert {each["metadata"]["labels"].get("team") for each in pods} == {"a", "b"}


def test_pods_run_where_the_fleet_says_unless_they_have_a_place_of_their_own(render: Render) -> None:
    values = (
        "global.nodeSelector.pool=agents",
        "global.tolerations[0].key=agents",
        "gateway.nodeSelector.pool=edge",
        "install.tolerations[0].key=jobs",
    )
    manifests = render("flotilla", *values, files=PRODUCTION)

    owners = {each["metadata"]["name"]: each for each in of_kind(manifests, "Deployment") + of_kind(manifests, "Job")}
    pods = {name: each["spec"]["template"]["spec"] for name, each in owners.items()}
    pods |= {each["metadata"]["name"]: each["spec"] for each in of_kind(manifests, "Pod")}
    assert len(pods) > 8
    for name, pod in pods.items():
        assert pod["nodeSelector"] == {"pool": "edge" if "gateway" in name and "tool" not in name else "agents"}
        assert [each["key"] for each in pod["tolerations"]] == ["jobs" if "install" in name else "agents"]


@pytest.mark.parametrize("files", [DEMO, PRODUCTION])
def test_containers_say_how_much_of_the_nodes_disk_they_use(render: Render, files: tuple[str, ...]) -> None:
    manifests = render("flotilla", files=files)
    owners = of_kind(manifests, "Deployment") + of_kind(manifests, "Job")
    containers = [each["spec"]["template"]["spec"]["containers"][0] for each in owners]

    for container in (*containers, *(each["spec"]["containers"][0] for each in of_kind(manifests, "Pod"))):
        if not container["image"].startswith(("postgres", "redis", "apache", "temporalio")):
            assert {"ephemeral-storage"} <= container["resources"]["requests"].keys()
            assert {"ephemeral-storage"} <= container["resources"]["limits"].keys()


@pytest.mark.parametrize("service", SERVICES)
def test_a_test_pod_reaches_its_service_only(render: Render, service: str) -> None:
    manifests = render(service, *ALONE)
    (pod,), policies = of_kind(manifests, "Pod"), of_kind(manifests, "NetworkPolicy")
    own = _deployment(manifests)["spec"]["template"]["metadata"]["labels"]
    (policy,) = [each for each in policies if each["metadata"]["name"].endswith("-test")]

    assert "ingress" not in policy["spec"]
    assert "Ingress" in policy["spec"]["policyTypes"]
    assert {each["name"] for each in _pod(manifests)["containers"][0]["ports"]} >= {"metrics"}
    for place, port, allowed in (
        (Place(namespace="flotilla", labels=own), "metrics", True),
        (Place(namespace="flotilla", labels={"app": "other"}), "metrics", False),
        (Place(namespace="kube-system"), 53, True),
        (Place("203.0.113.1"), 443, False),
    ):
        assert egress_allowed(policies, pod, place, port) == allowed  # type: ignore[arg-type]


def test_two_demos_fit_into_one_namespace(helm: Helm) -> None:
    def objects(release: str, *values: str) -> set[tuple[str, str]]:
        options = [word for value in values for word in ("--set", value)]
        done = helm("template", release, "flotilla", "--namespace", "one", "--values", DEMO[0], *options)
        assert done.returncode == 0, done.stderr
        return {(each["kind"], each["metadata"]["name"]) for each in yaml.safe_load_all(done.stdout) if each}

    first, second = objects("first"), objects("second", "global.demoName=second-demo")
    assert len(first) == len(second) > 40
    assert first & second == set()


IMAGES = [
    (("global.image.repository=r.example/f", "global.image.tag=v2"), "r.example/f/gateway:v2"),
    (("gateway.image.repository=r.example/own", "gateway.image.tag=v3"), "r.example/own:v3"),
    (
        ("gateway.image.repository=r.example/own", f"gateway.image.digest=sha256:{'0' * 64}"),
        f"r.example/own@sha256:{'0' * 64}",
    ),
    ((f"install.image=r.example/i@sha256:{'1' * 64}",), f"r.example/i@sha256:{'1' * 64}"),
]


@pytest.mark.parametrize(("values", "image"), IMAGES)
def test_the_install_job_runs_the_gateways_image(render: Render, values: tuple[str, ...], image: str) -> None:
    (job,) = of_kind(render("flotilla", *values, files=DEMO), "Job")

    assert job["spec"]["template"]["spec"]["containers"][0]["image"] == image


@pytest.mark.parametrize("files", [DEMO, PRODUCTION])
@pytest.mark.parametrize("value", ["global.image.tag=v2", "install.agents[0]=other", "global.nodeSelector.pool=x"])
def test_another_install_job_has_another_name_and_the_same_keeps_it(
    render: Render, files: tuple[str, ...], value: str
) -> None:
    def name(*values: str) -> str:
        (job,) = of_kind(render("flotilla", *values, files=files), "Job")
        return str(job["metadata"]["name"])

    assert name() == name()
    assert re.fullmatch(r"fleet-install-[0-9a-f]{8}", name())
    assert name() != name(value)


def test_the_install_job_takes_certificates_places_and_an_account(render: Render) -> None:
    values = (
        "global.dependencies.kafka.caSecret=kafka-ca", "global.dependencies.postgres.caSecret=pg-ca",
        "global.dependencies.postgres.caKey=root.pem", "install.serviceAccountName=installer",
        "install.extraVolumes[0].name=more", "install.extraVolumeMounts[0].name=more",
        "install.extraVolumeMounts[0].mountPath=/more", "install.keepSeconds=0",
    )  # fmt: skip
    (job,) = of_kind(render("flotilla", *values, files=PRODUCTION), "Job")

    pod = job["spec"]["template"]["spec"]
    assert pod["serviceAccountName"] == "installer"
    assert "ttlSecondsAfterFinished" not in job["spec"]
    assert "hook-succeeded" not in job["metadata"]["annotations"]["helm.sh/hook-delete-policy"]
    _holds_certificates(pod)


def _holds_certificates(pod: dict[str, Any]) -> None:
    container = pod["containers"][0]
    environment, volumes = _environment(container), {each["name"]: each for each in pod["volumes"]}
    mounts = {each["mountPath"]: volumes[each["name"]] for each in container["volumeMounts"]}
    for name, secret, key in (("KAFKA", "kafka-ca", "ca.crt"), ("POSTGRES", "pg-ca", "root.pem")):
        if f"FLOTILLA_{name}_CA_FILE" in environment or name == "POSTGRES":
            folder, _, file = environment[f"FLOTILLA_{name}_CA_FILE"].rpartition("/")
            assert mounts[folder]["secret"]["secretName"] == secret
            assert {"key": key, "path": file} in mounts[folder]["secret"]["items"]


@pytest.mark.parametrize("service", SERVICES)
def test_a_private_authority_comes_from_a_secret(render: Render, service: str) -> None:
    values = ("global.dependencies.kafka.caSecret=kafka-ca", "dependencies.postgres.caSecret=pg-ca",
              "global.dependencies.postgres.caKey=root.pem")  # fmt: skip
    pod = _pod(render(service, *ALONE, *values))

    _holds_certificates(pod)
    environment = _environment(pod["containers"][0])
    assert ("FLOTILLA_KAFKA_CA_FILE" in environment) == ("FLOTILLA_KAFKA_BOOTSTRAP_SERVERS" in environment)


SCALED = [
    ("workflow-worker", "settings.FLOTILLA_TASK_QUEUE=other", "taskQueue", "other"),
    ("audit-consumer", "settings.FLOTILLA_AUDIT_GROUP=other", "consumerGroup", "other"),
    ("audit-consumer", "settings.FLOTILLA_KAFKA_SESSION_EVENTS_TOPIC=other", "topic", "other"),
    ("audit-consumer", "dependencies.kafka.topicPrefix=team-a.", "topic", "team-a.session-events"),
    ("audit-consumer", "dependencies.kafka.topicPrefix=team-a.", "consumerGroup", "team-a.audit-consumer"),
    ("research-agent", "global.dependencies.redis.database=3", "databaseIndex", "3"),
]


@pytest.mark.parametrize(("service", "value", "key", "expected"), SCALED)
def test_a_scaler_asks_for_what_the_service_is_set_to(
    render: Render, service: str, value: str, key: str, expected: str
) -> None:
    (scaled,) = of_kind(render(service, *ALONE, "autoscaling.keda.enabled=true", value), "ScaledObject")

    found = [each["metadata"].get(key) for each in scaled["spec"]["triggers"] if each["type"] != "cpu"]
    assert set(found) == {expected}


def test_fleets_that_share_kafka_name_their_topics_alike_in_every_service(render: Render) -> None:
    manifests = render("flotilla", "global.dependencies.kafka.topicPrefix=team-a.", files=PRODUCTION)

    owners = of_kind(manifests, "Deployment") + of_kind(manifests, "Job")
    found = [_environment(each["spec"]["template"]["spec"]["containers"][0]) for each in owners]
    topics = {
        each.get("FLOTILLA_KAFKA_SESSION_EVENTS_TOPIC") for each in found if "FLOTILLA_KAFKA_BOOTSTRAP_SERVERS" in each
    }
    assert topics == {"team-a.session-events"}


# Values, and the connections that the message counts.
CONNECTIONS = [
    ((), "gateway 140, install 4"),
    (("gateway.settings.FLOTILLA_POSTGRES_POOL_MAX=5",), "gateway 35,"),
    (("gateway.maxSurge=50%",), "gateway 180,"),
    (("outbox-relay.settings.FLOTILLA_POSTGRES_POOL_MAX=50",), "outbox-relay 28,"),
    (("gateway.enabled=false",), "(KEDA 1, audit-consumer 78, backup 0, install 4"),
    (("agents.translate.replicas=2",), "translate-agent 30,"),
    (("workers.briefings.replicas=2",), "briefings-worker 60,"),
    (("agents.translate.settings.FLOTILLA_POSTGRES_POOL_MAX=3", "agents.translate.replicas=2"), "translate-agent 9,"),
]


@pytest.mark.parametrize(("values", "counted"), CONNECTIONS)
def test_a_fleet_that_could_open_too_many_connections_is_refused_with_the_sum(
    helm: Helm, values: tuple[str, ...], counted: str
) -> None:
    most = "global.dependencies.postgres.maxConnections"
    done = template(helm, "flotilla", *values, f"{most}=10", files=PRODUCTION)

    assert done.returncode != 0
    assert counted in done.stderr.replace(")", ",")
    total = re.search(r"open (\d+) connections to PostgreSQL \(([^)]*)\)", done.stderr)
    assert total
    assert int(total[1]) == sum(int(each) for each in re.findall(r" (\d+)", total[2]))
    assert template(helm, "flotilla", *values, f"{most}={total[1]}", files=PRODUCTION).returncode == 0
    assert template(helm, "flotilla", *values, f"{most}={int(total[1]) - 1}", files=PRODUCTION).returncode != 0


def test_no_image_comes_from_somebodys_account_unasked(render: Render) -> None:
    manifests = render("flotilla", "flotilla-demo.enabled=false", files=DEMO)

    owners = of_kind(manifests, "Deployment") + of_kind(manifests, "Job")
    images = {each["spec"]["template"]["spec"]["containers"][0]["image"] for each in owners}
    assert len(images) == 7
    assert {image.partition("/")[0] for image in images} == {"localhost"}


CERTIFICATES = (
    "global.dependencies.kafka.certSecret=kafka-client",
    "global.dependencies.temporal.certSecret=temporal-client",
)


@pytest.mark.parametrize(
    ("service", "dependencies"),
    [("gateway", {"kafka", "temporal"}), ("outbox-relay", {"kafka"}), ("workflow-worker", {"temporal"})],
)
def test_a_service_shows_the_certificates_of_the_secrets_that_are_named(
    render: Render, service: str, dependencies: set[str]
) -> None:
    pod = _pod(render(service, *ALONE, *CERTIFICATES))
    environment = _environment(pod["containers"][0])

    for dependency in dependencies:
        name, folder = dependency.upper(), f"/etc/flotilla/cert/{dependency}"
        assert environment[f"FLOTILLA_{name}_CERT_FILE"] == f"{folder}/tls.crt"
        assert environment[f"FLOTILLA_{name}_KEY_FILE"] == f"{folder}/tls.key"
        mounts = {each["name"]: each["mountPath"] for each in pod["containers"][0]["volumeMounts"]}
        assert mounts[f"{dependency}-cert"] == folder
        (volume,) = [each["secret"] for each in pod["volumes"] if each["name"] == f"{dependency}-cert"]
        assert volume["secretName"] == f"{dependency}-client"
    assert {name for name in environment if name.endswith("_CERT_FILE")} == {
        f"FLOTILLA_{each.upper()}_CERT_FILE" for each in dependencies
    }


def test_tokens_server_names_and_headers_reach_the_services_that_need_them(render: Render) -> None:
    values = (
        "global.dependencies.kafka.tokenCommand=print-a-token --region eu",
        "global.dependencies.kafka.saslMechanism=OAUTHBEARER",
        "global.dependencies.temporal.serverName=temporal.internal",
        "global.otlpHeadersSecret=otlp",
    )
    manifests = render("flotilla", *values, files=PRODUCTION)
    pods = {each["metadata"]["name"]: each for each in of_kind(manifests, "Deployment") + of_kind(manifests, "Job")}
    containers = {name: each["spec"]["template"]["spec"]["containers"][0] for name, each in pods.items()}

    command = {name for name, each in containers.items() if "FLOTILLA_KAFKA_TOKEN_COMMAND" in _environment(each)}
    assert {re.sub(r"^(fleet-|flotilla-)*|-\d+$|-[0-9a-f]{6,}$", "", name) for name in command} >= {
        "gateway", "outbox-relay", "audit-consumer",
    }  # fmt: skip
    for container in containers.values():
        environment = {each["name"]: each for each in container["env"]}
        if "FLOTILLA_KAFKA_TOKEN_COMMAND" in environment:
            assert environment["FLOTILLA_KAFKA_SASL_MECHANISM"]["value"] == "OAUTHBEARER"
        if "FLOTILLA_TEMPORAL_ADDRESS" in environment:
            assert environment["FLOTILLA_TEMPORAL_SERVER_NAME"]["value"] == "temporal.internal"
        if "OTEL_EXPORTER_OTLP_ENDPOINT" in environment:
            headers = environment["OTEL_EXPORTER_OTLP_HEADERS"]["valueFrom"]["secretKeyRef"]
            assert headers == {"name": "otlp", "key": "headers"}


def test_keda_asks_the_sentinels_for_the_primary(render: Render) -> None:
    values = (
        "global.dependencies.redis.address=s1.data:26379\\,s2.data:26379",
        "global.dependencies.redis.sentinelPrimary=main",
    )
    manifests = render("flotilla", *values, files=PRODUCTION)
    scaled = [each for each in of_kind(manifests, "ScaledObject") if "agent" in each["metadata"]["name"]]

    assert scaled
    for trigger in (each for one in scaled for each in one["spec"]["triggers"]):
        assert trigger["type"] == "redis-sentinel-streams"
        assert trigger["metadata"]["sentinelMaster"] == "main"
        assert trigger["metadata"]["addresses"] == "s1.data:26379,s2.data:26379"
        assert "address" not in trigger["metadata"]
    (policy,) = [
        each for each in of_kind(manifests, "NetworkPolicy") if each["metadata"]["name"].endswith("research-agent")
    ]
    ports = [{port["port"] for port in rule["ports"]} for rule in policy["spec"]["egress"]]
    assert {6379, 26379} in ports


def test_kedas_kafka_scaler_shows_the_clients_certificate(render: Render) -> None:
    manifests = render("flotilla", *CERTIFICATES, "audit-consumer.autoscaling.keda.enabled=true", files=PRODUCTION)
    (login,) = [each for each in of_kind(manifests, "TriggerAuthentication") if "audit" in each["metadata"]["name"]]

    given = {each["parameter"]: (each["name"], each["key"]) for each in login["spec"]["secretTargetRef"]}
    assert given["cert"] == ("kafka-client", "tls.crt")
    assert given["key"] == ("kafka-client", "tls.key")


@pytest.mark.parametrize(
    ("service", "file", "variable"),
    [
        ("writer-agent", "llmPrices", "FLOTILLA_LLM_PRICES"),
        ("tool-gateway", "mcpServers", "FLOTILLA_MCP_SERVERS_FILE"),
    ],
)
def test_an_agent_reads_its_file_from_the_config_map_that_is_named(
    render: Render, service: str, file: str, variable: str
) -> None:
    values = (f"{service}.{file}.existingConfigMap=ours", f"{service}.{file}.key=file")
    pods = {
        each["metadata"]["name"]: each["spec"]["template"]["spec"]
        for each in of_kind(render("flotilla", *values, files=DEMO), "Deployment")
    }
    for name, pod in pods.items():
        variables = [each["name"] for each in pod["containers"][0].get("env", [])]
        assert (variable in variables) == (name == f"fleet-{service}")
    pod = pods[f"fleet-{service}"]
    (mounted,) = [each for each in pod["volumes"] if each.get("configMap") == {"name": "ours"}]
    (at,) = [each["mountPath"] for each in pod["containers"][0]["volumeMounts"] if each["name"] == mounted["name"]]
    assert _environment(pod["containers"][0])[variable] == f"{at}/file"
