"""Each service's chart, installed alone."""

import re
from pathlib import Path
from typing import Any

import pytest

from flotilla.agent.template import write_agent
from flotilla.contracts.names import agent_group, task_stream
from tests.charts.conftest import ALONE, ROOT, Helm, Render, of_kind, template
from tests.support.catalog import SERVICES
from tests.support.charts import chart_of

AGENTS = ("research-agent", "writer-agent", "tool-gateway")


def _pod(manifests: list[dict[str, Any]]) -> dict[str, Any]:
    (deployment,) = of_kind(manifests, "Deployment")
    pod = deployment["spec"]["template"]
    assert isinstance(pod, dict)
    return pod


def _environment(pod: dict[str, Any]) -> dict[str, Any]:
    return {entry["name"]: entry for entry in pod["spec"]["containers"][0]["env"]}


def _policy(manifests: list[dict[str, Any]]) -> dict[str, Any]:
    """The service's own; the pod of `helm test` has another."""
    policies = of_kind(manifests, "NetworkPolicy")
    (policy,) = [each for each in policies if not each["metadata"]["name"].endswith("-test")]
    return policy


@pytest.mark.parametrize("service", SERVICES)
def test_pods_fit_the_restricted_standard(render: Render, service: str) -> None:
    pod = _pod(render(service, *ALONE))["spec"]

    container = pod["containers"][0]
    assert pod["securityContext"]["runAsNonRoot"]
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
    assert container["securityContext"]["allowPrivilegeEscalation"] is False
    assert container["securityContext"]["readOnlyRootFilesystem"] is True
    assert pod["automountServiceAccountToken"] is False


@pytest.mark.parametrize("service", SERVICES)
def test_pods_get_more_time_to_stop_than_the_service_takes_to_drain(render: Render, service: str) -> None:
    pod = _pod(render(service, *ALONE, "drainSeconds=40"))

    assert _environment(pod)["FLOTILLA_DRAIN_S"]["value"] == "40"
    lingers = 5 if service == "gateway" else 0
    assert pod["spec"]["terminationGracePeriodSeconds"] == 50 + lingers


def test_a_stopping_gateway_serves_until_every_node_has_heard_of_it(render: Render) -> None:
    pod = _pod(render("gateway", *ALONE, "service.lingerSeconds=7", "drainSeconds=40"))
    own = _pod(render("gateway", *ALONE, "lifecycle.preStop.sleep.seconds=3"))

    assert pod["spec"]["containers"][0]["lifecycle"] == {"preStop": {"sleep": {"seconds": 7}}}
    assert pod["spec"]["terminationGracePeriodSeconds"] == 57
    assert own["spec"]["containers"][0]["lifecycle"] == {"preStop": {"sleep": {"seconds": 3}}}


def test_gateway_alone_gets_the_public_keys(render: Render) -> None:
    keys = "global.publicKeys.existingConfigMap=public"
    gateway, consumer = (_pod(render(service, *ALONE, keys)) for service in ("gateway", "audit-consumer"))

    assert (
        _environment(gateway)["FLOTILLA_AUDIT_PUBLIC_KEY_FILE"]["value"] == "/etc/flotilla/public-keys/public-keys.pem"
    )
    (volume,) = [each for each in gateway["spec"]["volumes"] if each["name"] == "public-keys"]
    assert volume["configMap"] == {"name": "public"}
    assert "FLOTILLA_AUDIT_PUBLIC_KEY_FILE" not in _environment(consumer)
    assert "FLOTILLA_AUDIT_PUBLIC_KEY_FILE" not in _environment(_pod(render("gateway", *ALONE)))


@pytest.mark.parametrize("service", SERVICES)
def test_credentials_come_from_secrets_only(render: Render, service: str) -> None:
    environment = _environment(_pod(render(service, *ALONE)))

    for name in ("FLOTILLA_POSTGRES_DSN", "FLOTILLA_REDIS_URL", "OPENAI_API_KEY", "FLOTILLA_TEMPORAL_API_KEY"):
        assert "value" not in environment.get(name, {})
    assert environment["FLOTILLA_POSTGRES_DSN"]["valueFrom"]["secretKeyRef"]["name"] == "pg"


@pytest.mark.parametrize("service", SERVICES)
def test_an_autoscaler_owns_the_replicas(render: Render, service: str) -> None:
    fixed = render(service, *ALONE, "replicas=3")
    scaled = render(service, *ALONE, "autoscaling.hpa.enabled=true")
    by_keda = render(service, *ALONE, "autoscaling.keda.enabled=true", "autoscaling.keda.minReplicas=1")

    assert of_kind(fixed, "Deployment")[0]["spec"]["replicas"] == 3
    assert not of_kind(fixed, "HorizontalPodAutoscaler") + of_kind(fixed, "ScaledObject")
    for manifests, kind in ((scaled, "HorizontalPodAutoscaler"), (by_keda, "ScaledObject")):
        assert "replicas" not in of_kind(manifests, "Deployment")[0]["spec"]
        assert len(of_kind(manifests, kind)) == 1


@pytest.mark.parametrize("service", SERVICES)
def test_a_disruption_budget_needs_more_than_one_pod(render: Render, service: str) -> None:
    assert not of_kind(render(service, *ALONE), "PodDisruptionBudget")
    (budget,) = of_kind(render(service, *ALONE, "replicas=2"), "PodDisruptionBudget")
    assert budget["spec"]["maxUnavailable"] == 1


@pytest.mark.parametrize("service", SERVICES)
def test_egress_goes_only_to_named_dependencies(render: Render, service: str) -> None:
    policy = _policy(render(service, *ALONE))

    ports = {port["port"] for rule in policy["spec"]["egress"] for port in rule["ports"]}
    assert policy["spec"]["policyTypes"] == ["Ingress", "Egress"]
    assert ports <= {53, 443, 5432, 6379, 7233, 9092, 9093}
    assert all(rule["to"] for rule in policy["spec"]["egress"])
    assert (6379 in ports) == ("FLOTILLA_REDIS_URL" in _environment(_pod(render(service, *ALONE))))


@pytest.mark.parametrize("service", SERVICES)
def test_policies_admit_the_own_namespace_and_named_ones_only(render: Render, service: str) -> None:
    given = ("global.networkPolicy.metricsNamespaces[0]=prometheus", "networkPolicy.clientNamespaces[0]=traefik")
    for values, names in (((), {"monitoring", "ingress-nginx"}), (given, {"prometheus", "traefik"})):
        policy = _policy(render(service, *ALONE, *values))
        rules = policy["spec"]["ingress"] + policy["spec"]["egress"]
        peers = [peer for rule in rules for peer in rule.get("from", rule.get("to"))]
        labels = [peer["namespaceSelector"]["matchLabels"] for peer in peers if "namespaceSelector" in peer]
        admitted = {label["kubernetes.io/metadata.name"] for label in labels}
        served = names if service == "gateway" else names - {"ingress-nginx", "traefik"}
        assert admitted == served | {"kube-system"}


def test_egress_goes_where_the_fleet_says_that_a_dependency_is(render: Render) -> None:
    at = "global.networkPolicy.egress.postgres[0].ipBlock.cidr=192.0.2.0/24"
    own = "networkPolicy.egress.redis.to[0].ipBlock.cidr=198.51.100.0/24"
    policy = _policy(render("writer-agent", *ALONE, at, own))

    to = {rule["ports"][0]["port"]: rule["to"] for rule in policy["spec"]["egress"]}
    assert to[5432] == [{"ipBlock": {"cidr": "192.0.2.0/24"}}]
    assert to[6379] == [{"ipBlock": {"cidr": "198.51.100.0/24"}}]
    assert "169.254.0.0/16" in to[443][0]["ipBlock"]["except"]


@pytest.mark.parametrize("service", SERVICES)
def test_image_is_a_tag_or_a_digest(render: Render, service: str) -> None:
    digest = "sha256:" + "0" * 64
    tagged = _pod(render(service, *ALONE, "global.image.repository=r.example/f", "global.image.tag=2"))
    pinned = _pod(render(service, *ALONE, f"image.digest={digest}", "image.tag=ignored"))

    assert tagged["spec"]["containers"][0]["image"] == f"r.example/f/{service}:2"
    assert pinned["spec"]["containers"][0]["image"] == f"localhost/flotilla/{service}@{digest}"


@pytest.mark.parametrize("agent", AGENTS)
def test_agents_scale_on_lag_and_pending_together_and_rest_at_zero(render: Render, agent: str) -> None:
    manifests = render(agent, *ALONE, "autoscaling.keda.enabled=true", "global.dependencies.redis.scalerSecret=scaler")

    (scaled,) = of_kind(manifests, "ScaledObject")
    assert scaled["spec"]["minReplicaCount"] == 0
    assert scaled["spec"]["advanced"]["scalingModifiers"]["formula"] == "lag + pending"
    assert scaled["spec"]["advanced"]["scalingModifiers"]["activationTarget"] == "0"
    assert [trigger["name"] for trigger in scaled["spec"]["triggers"]] == ["lag", "pending"]
    (authentication,) = of_kind(manifests, "TriggerAuthentication")
    for trigger in scaled["spec"]["triggers"]:
        assert trigger["authenticationRef"]["name"] == authentication["metadata"]["name"]
    # Nobody is there to be tested.
    assert not of_kind(manifests, "Pod")


@pytest.mark.parametrize(
    ("service", "key", "value"),
    [
        ("research-agent", "redis.address", "address"),
        ("workflow-worker", "temporal.address", "endpoint"),
        ("audit-consumer", "kafka.bootstrapServers", "bootstrapServers"),
    ],
)
def test_keda_gets_addresses_that_resolve_outside_the_releases_namespace(
    render: Render, service: str, key: str, value: str
) -> None:
    given = f"global.dependencies.{key}=near:1\\,far.example.com:2"
    manifests = render(service, *ALONE, "autoscaling.keda.enabled=true", given)

    (scaled,) = of_kind(manifests, "ScaledObject")
    namespace = scaled["metadata"]["namespace"]
    assert scaled["spec"]["triggers"][0]["metadata"][value] == f"near.{namespace}.svc:1,far.example.com:2"


@pytest.mark.parametrize("named", [(), ("nameOverride=other",), ("fullnameOverride=other",), ("agent.service=other",)])
def test_an_agent_scales_on_its_own_stream_whatever_its_objects_are_called(
    render: Render, named: tuple[str, ...]
) -> None:
    manifests = render("agent", *ALONE, *named, "agent.name=translate", "autoscaling.keda.enabled=true")

    (scaled,) = of_kind(manifests, "ScaledObject")
    for trigger in scaled["spec"]["triggers"]:
        assert trigger["metadata"]["stream"] == task_stream("translate")
        assert trigger["metadata"]["consumerGroup"] == agent_group("translate")
    assert _environment(_pod(manifests))["FLOTILLA_AGENT_NAME"]["value"] == "translate"


def test_only_an_agent_that_asks_a_model_reaches_the_internet(render: Render) -> None:
    for llm in (False, True):
        policy = _policy(render("agent", *ALONE, "agent.name=translate", f"agent.llm={str(llm).lower()}"))
        assert (443 in {rule["ports"][0]["port"] for rule in policy["spec"]["egress"]}) == llm


def test_the_values_of_a_new_agent_install_it_in_a_release_of_its_own(render: Render, tmp_path: Path) -> None:
    write_agent("word-count", tmp_path / "new")
    manifests = render("agent", files=(str(tmp_path / "new/values.yaml"),))

    (container,) = _pod(manifests)["spec"]["containers"]
    environment = {entry["name"]: entry for entry in container["env"]}
    assert container["image"] == "word-count-agent:0.1.0"
    assert environment["FLOTILLA_AGENT_NAME"]["value"] == "word-count"
    secrets = [
        environment[name]["valueFrom"]["secretKeyRef"] for name in ("FLOTILLA_POSTGRES_DSN", "FLOTILLA_REDIS_URL")
    ]
    assert {each["name"] for each in secrets} == {"word-count-agent"}
    policy = _policy(manifests)
    to = {rule["ports"][0]["port"]: rule["to"] for rule in policy["spec"]["egress"]}
    fleet = [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "flotilla"}}}]
    assert to[5432] == to[6379] == fleet


def test_relay_scales_as_the_role_for_scaling(render: Render) -> None:
    manifests = render("outbox-relay", *ALONE, "autoscaling.keda.enabled=true")

    (authentication,) = of_kind(manifests, "TriggerAuthentication")
    (target,) = authentication["spec"]["secretTargetRef"]
    assert target == {"parameter": "connection", "name": "pg", "key": "flotilla_scaler"}


def test_audit_consumer_reads_its_signing_key_from_a_secret(render: Render) -> None:
    pod = _pod(render("audit-consumer", *ALONE))

    path = _environment(pod)["FLOTILLA_AUDIT_SIGNING_KEY_FILE"]["value"]
    (mount,) = [each for each in pod["spec"]["containers"][0]["volumeMounts"] if path.startswith(each["mountPath"])]
    (volume,) = [each for each in pod["spec"]["volumes"] if each["name"] == mount["name"]]
    assert volume["secret"]["secretName"] == "signing"


@pytest.mark.parametrize("service", ["workflow-worker", "research-agent", "writer-agent"])
def test_the_worker_alone_has_the_key_that_signs_tasks(render: Render, service: str) -> None:
    pod = _pod(render(service, *ALONE))

    is_worker = service == "workflow-worker"
    path = _environment(pod)[f"FLOTILLA_TICKET_{'KEY' if is_worker else 'PUBLIC_KEY'}_FILE"]["value"]
    (mount,) = [each for each in pod["spec"]["containers"][0]["volumeMounts"] if path.startswith(each["mountPath"])]
    (volume,) = [each for each in pod["spec"]["volumes"] if each["name"] == mount["name"]]
    assert ("secret" in volume, "configMap" in volume) == (is_worker, not is_worker)


@pytest.mark.parametrize("service", ["gateway", "workflow-worker", "research-agent"])
def test_who_checks_votes_shares_the_vote_roots(render: Render, service: str) -> None:
    given = _pod(render(service, *ALONE, "global.voteRoots.existingConfigMap=roots"))

    assert _environment(given)["FLOTILLA_VOTE_ROOTS"]["value"] == "/etc/flotilla/vote-roots/roots.toml"
    assert {"name": "vote-roots", "configMap": {"name": "roots"}} in given["spec"]["volumes"]
    assert "FLOTILLA_VOTE_ROOTS" not in _environment(_pod(render(service, *ALONE)))


@pytest.mark.parametrize("service", ["gateway", "workflow-worker", "research-agent"])
def test_who_checks_votes_shares_the_approval_policy(render: Render, service: str) -> None:
    builtin = _pod(render(service, *ALONE, "global.approvalPolicy.builtin=local"))
    file = _pod(render(service, *ALONE, "global.approvalPolicy.existingConfigMap=policy"))

    assert _environment(builtin)["FLOTILLA_APPROVAL_POLICY"]["value"] == "builtin:local"
    assert _environment(file)["FLOTILLA_APPROVAL_POLICY"]["value"] == "/etc/flotilla/policy/policy.toml"
    assert {"name": "approval-policy", "configMap": {"name": "policy"}} in file["spec"]["volumes"]


def test_worker_versioning_renders_one_deployment_per_build(render: Render) -> None:
    builds = ("versioning.builds[0].id=v1", "versioning.builds[0].replicas=1", "versioning.builds[0].tag=tag-v1")
    more = ("versioning.builds[1].id=v2", "versioning.builds[1].replicas=2", "versioning.builds[1].tag=tag-v2")
    deployments = of_kind(render("workflow-worker", *ALONE, *builds, *more), "Deployment")

    assert [each["metadata"]["name"] for each in deployments] == [
        "fleet-workflow-worker-v1",
        "fleet-workflow-worker-v2",
    ]
    assert [each["spec"]["replicas"] for each in deployments] == [1, 2]
    for each, build in zip(deployments, ("v1", "v2"), strict=True):
        assert each["spec"]["selector"]["matchLabels"]["flotilla/build-id"] == build
        assert _environment(each["spec"]["template"])["FLOTILLA_BUILD_ID"]["value"] == build
        assert each["spec"]["template"]["spec"]["containers"][0]["image"].endswith(f":tag-{build}")


REFUSED = [
    ("agent", ALONE, "agent.name is"),
    ("agent", (*ALONE, "agent.name=Word_Count"), "set it to the name that the agent's code has"),
    ("gateway", (), "set dependencies.postgres.existingSecret"),
    ("audit-consumer", (*ALONE[:-1],), "set signingKey.existingSecret"),
    ("workflow-worker", (*ALONE[:5],), "set ticketKey.existingSecret"),
    ("research-agent", (*ALONE[:5],), "set ticketPublicKeys.existingConfigMap"),
    ("writer-agent", (*ALONE[:5],), "set ticketPublicKeys.existingConfigMap"),
    ("gateway", (*ALONE, "autoscaling.hpa.enabled=true", "autoscaling.keda.enabled=true"), "turn one off"),
    ("gateway", (*ALONE, "autoscaling.hpa.enabled=true", "autoscaling.hpa.minReplicas=0"), "use autoscaling.keda"),
    ("gateway", (*ALONE, "replicaCount=2"), "now called replicas"),
    ("gateway", (*ALONE, "replicass=2"), "replicass"),
    ("gateway", (*ALONE, "metrics.porrt=2"), "porrt"),
    ("gateway", (*ALONE, "logLevel=loud"), "logLevel"),
    ("research-agent", (*ALONE[:2], ALONE[6], "autoscaling.keda.enabled=true"), "set dependencies.redis.address"),
    (
        "workflow-worker",
        (*ALONE, "autoscaling.hpa.enabled=true", "versioning.builds[0].id=v1", "versioning.builds[0].replicas=1"),
        "turn autoscaling.hpa and autoscaling.keda off",
    ),
]


@pytest.mark.parametrize(("chart", "values", "hint"), REFUSED)
def test_a_wrong_render_fails_with_its_hint(helm: Helm, chart: str, values: tuple[str, ...], hint: str) -> None:
    done = template(helm, chart, *values)

    assert done.returncode != 0
    assert hint in done.stderr


@pytest.mark.parametrize("service", SERVICES)
def test_charts_pass_lint(helm: Helm, service: str) -> None:
    chart, own = chart_of(service)
    done = helm("lint", "--strict", chart, *(word for value in (*own, *ALONE) for word in ("--set", value)))

    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("service", [service for service in SERVICES if service != "tool-gateway"])
def test_requests_follow_what_the_service_was_seen_to_take(render: Render, service: str) -> None:
    steady_m, most_mi = _measured(service)
    (container,) = _pod(render(service, *ALONE))["spec"]["containers"]
    requests, limits = container["resources"]["requests"], container["resources"]["limits"]

    assert steady_m <= int(requests["cpu"].removesuffix("m")) <= 4 * steady_m
    assert most_mi <= _mi(requests["memory"]) <= 3 * most_mi
    assert _mi(limits["memory"]) >= 2 * most_mi


def _measured(service: str) -> tuple[int, int]:
    """Milli-CPUs at a steady rate and MiB at the peak, of the table that `benchmarks.resources` printed."""
    page = (ROOT / "docs/performance.md").read_text(encoding="utf-8")
    (row,) = re.findall(rf"^\| {service} \| .*$", page, re.MULTILINE)
    _idle, steady, peak = re.findall(r"(\d+)m, (\d+) Mi", row)
    return int(steady[0]), int(peak[1])


def _mi(quantity: str) -> int:
    number, unit = int(quantity[:-2]), quantity[-2:]
    return number * {"Mi": 1, "Gi": 1024}[unit]


@pytest.mark.parametrize(
    ("service", "given"),
    [
        ("gateway", "encryption.existingSecret=root-keys"),
        ("workflow-worker", "encryption.existingSecret=root-keys"),
        ("research-agent", "sessionKeys.url=http://fleet-workflow-worker"),
    ],
)
@pytest.mark.parametrize(("keys_only", "switch"), [((), "on"), (("global.encryption.keysOnly=true",), "off")])
def test_a_service_of_its_own_release_encrypts_where_it_has_keys(
    render: Render, service: str, given: str, keys_only: tuple[str, ...], switch: str
) -> None:
    [deployment] = of_kind(render(service, *ALONE, given, *keys_only), "Deployment")
    container = deployment["spec"]["template"]["spec"]["containers"][0]
    assert {"name": "FLOTILLA_ENCRYPTION", "value": switch} in container["env"]
