"""Who may call what: rendered policies, read as a network plugin reads them."""

import pytest

from tests.charts.conftest import ALONE, Helm, Manifest, Render, of_kind, template
from tests.charts.policies import Place, egress_allowed
from tests.support.catalog import SERVICES

PRODUCTION = ("flotilla/values-production.yaml",)
POSTGRES, REDIS, KAFKA = Place("192.0.2.1"), Place("192.0.2.17"), Place("192.0.2.33")
TEMPORAL, COLLECTOR = Place("198.51.100.9"), Place(namespace="observability")
PUBLIC, PUBLIC_6 = Place("203.0.113.7"), Place("2606:4700::1")
METADATA = Place("169.254.169.254")
NEIGHBOUR, OTHER = Place(namespace="flotilla"), Place(namespace="elsewhere")
TOOLS = Place(namespace="flotilla", labels={"app.kubernetes.io/name": "tool-gateway"})
WORKER = Place(namespace="flotilla", labels={"app.kubernetes.io/name": "workflow-worker"})
DNS = Place(namespace="kube-system")
# Destination and port, and the services that may call it with values-production.yaml.
ALL = frozenset({*SERVICES, "install"})
AGENTS = frozenset({"research-agent", "writer-agent", "tool-gateway"})
TRUTH = {
    "DNS": (DNS, 53, ALL),
    "postgres": (POSTGRES, 5432, ALL),
    "redis": (REDIS, 6379, AGENTS | {"gateway", "workflow-worker", "install"}),
    "kafka": (KAFKA, 9093, frozenset({"gateway", "outbox-relay", "audit-consumer", "install"})),
    "temporal": (TEMPORAL, 7233, frozenset({"gateway", "workflow-worker"})),
    "collector": (COLLECTOR, 4318, ALL - {"install"}),
    "model": (PUBLIC, 443, frozenset({"writer-agent"})),
    "model, IPv6": (PUBLIC_6, 443, frozenset({"writer-agent"})),
    "postgres on another port": (POSTGRES, 22, frozenset()),
    "redis on PostgreSQL's port": (REDIS, 5432, frozenset()),
    "a private address": (Place("10.1.2.3"), 443, frozenset()),
    "a private address, IPv6": (Place("fd00::1"), 443, frozenset()),
    "a private address through NAT64": (Place("64:ff9b::a01:203"), 443, frozenset()),
    "a private address in IPv6": (Place("::ffff:10.1.2.3"), 443, frozenset()),
    "the cloud's metadata": (METADATA, 80, frozenset()),
    "the cloud's metadata, TLS": (METADATA, 443, frozenset()),
    "the cloud's metadata, IPv6": (Place("fd00:ec2::254"), 443, frozenset()),
    "the API server": (Place("10.96.0.1"), 443, frozenset()),
    "the tool gateway": (TOOLS, 8080, frozenset({"research-agent", "writer-agent"})),
    "the worker's keys of sessions": (WORKER, 8081, AGENTS),
    "keys of sessions elsewhere": (NEIGHBOUR, 8081, frozenset()),
    "another service": (NEIGHBOUR, 8080, frozenset()),
    "another service's metrics": (NEIGHBOUR, 9090, frozenset()),
    "another namespace": (OTHER, 5432, frozenset()),
    "the mail server of the internet": (PUBLIC, 25, frozenset()),
}


def _pods(manifests: list[Manifest]) -> dict[str, Manifest]:
    owners = of_kind(manifests, "Deployment") + of_kind(manifests, "Job")
    return {each["spec"]["template"]["spec"]["containers"][0]["name"]: each["spec"]["template"] for each in owners}


@pytest.mark.parametrize("row", TRUTH)
def test_production_reaches_what_it_names_and_nothing_else(render: Render, row: str) -> None:
    manifests = render("flotilla", files=PRODUCTION)
    policies, (place, port, expected) = of_kind(manifests, "NetworkPolicy"), TRUTH[row]

    allowed = {name for name, pod in _pods(manifests).items() if egress_allowed(policies, pod, place, port)}
    assert allowed == expected


# Service, values, destination, port.
OPENED = [
    ("gateway", "settings.FLOTILLA_OIDC_ISSUER=https://login.example.com/realms/main", PUBLIC, 443),
    ("gateway", "settings.FLOTILLA_OIDC_ISSUER=https://login.example.com:8443/realms/main", PUBLIC_6, 8443),
    ("gateway", "settings.FLOTILLA_OIDC_ISSUER=https://keycloak.login.svc:8443/x", Place(namespace="login"), 8443),
    ("gateway", "settings.FLOTILLA_EMBEDDING_URL=https://models.example.com/v1", PUBLIC, 443),
    ("research-agent", "settings.FLOTILLA_RERANK_URL=http://rerank.models.svc:8080", Place(namespace="models"), 8080),
    (
        "research-agent",
        "sessionKeys.url=http://fleet-workflow-worker.fleets.svc",
        Place(namespace="fleets", labels={"app.kubernetes.io/name": "workflow-worker"}),
        8081,
    ),
    ("gateway", "settings.FLOTILLA_ENCRYPTION_VAULT_URL=https://vault.vault.svc:8200", Place(namespace="vault"), 8200),
    ("workflow-worker", "settings.FLOTILLA_APPROVAL_WEBHOOK_URLS=https://hooks.example.com:9443/x", PUBLIC, 9443),
    ("workflow-worker", r"settings.FLOTILLA_ACTION_HTTP_HOSTS=api.example.com\,10.0.0.5:8443", PUBLIC, 443),
    ("workflow-worker", r"settings.FLOTILLA_ACTION_HTTP_HOSTS=api.example.com\,10.0.0.5:8443", Place("10.0.0.5"), 8443),
    ("outbox-relay", "otlpEndpoint=http://collector:4318", NEIGHBOUR, 4318),
    ("outbox-relay", "otlpEndpoint=https://otlp.example.com/x", Place("10.20.30.40"), 443),
    ("outbox-relay", r"otlpEndpoint=http://[fd00::7]:4318", Place("fd00::7"), 4318),
    (
        "outbox-relay",
        r"dependencies.kafka.bootstrapServers=k1.kafka.svc:9095\,k2.kafka.svc:9095",
        Place(namespace="kafka"),
        9095,
    ),
    ("outbox-relay", "dependencies.kafka.bootstrapServers=kafka.example.com:19092", Place("10.20.30.40"), 19092),
    ("writer-agent", "dependencies.llm.baseUrl=https://llm.example.com:8443/v1", PUBLIC_6, 8443),
    (
        "writer-agent",
        "dependencies.llm.baseUrl=http://vllm.models.svc.cluster.local:8000/v1",
        Place(namespace="models"),
        8000,
    ),
    ("writer-agent", "dependencies.llm.baseUrl=http://10.9.8.7:8000/v1", Place("10.9.8.7"), 8000),
    (
        "writer-agent",
        "settings.FLOTILLA_LLM_PROXY=http://user:pass@proxy.egress.svc:3128",
        Place(namespace="egress"),
        3128,
    ),
    ("workflow-worker", "dependencies.temporal.address=temporal.temporal.svc:7233", Place(namespace="temporal"), 7233),
    ("research-agent", "dependencies.redis.address=redis.example.com:6380", Place("10.20.30.40"), 6380),
    ("audit-consumer", "networkPolicy.egress.postgres.ports[0]=6432", NEIGHBOUR, 6432),
    ("audit-consumer", "global.networkPolicy.ports.postgres[0]=6432", NEIGHBOUR, 6432),
    ("audit-consumer", "networkPolicy.dns.to[0].ipBlock.cidr=169.254.20.10/32", Place("169.254.20.10"), 53),
    ("audit-consumer", "global.networkPolicy.dns.ports[0]=5353", DNS, 5353),
    ("gateway", "networkPolicy.egress.oidc.to[0].ipBlock.cidr=10.3.0.0/16", Place("10.3.0.9"), 443),
]


@pytest.mark.parametrize(("service", "value", "place", "port"), OPENED)
def test_a_configured_address_is_reached_and_only_then(
    render: Render, service: str, value: str, place: Place, port: int
) -> None:
    for values, expected in (((*ALONE, value), True), (ALONE, False)):
        manifests = render(service, *values)
        (pod,) = _pods(manifests).values()
        protocol = "UDP" if port in (53, 5353) else "TCP"
        assert egress_allowed(of_kind(manifests, "NetworkPolicy"), pod, place, port, protocol) == expected


def test_the_fleets_addresses_open_nothing_for_a_service_that_does_not_call_them(render: Render) -> None:
    at = "global.networkPolicy.egress.redis[0].ipBlock.cidr=192.0.2.16/28"
    manifests = render("outbox-relay", *ALONE, at)
    (pod,) = _pods(manifests).values()

    assert not egress_allowed(of_kind(manifests, "NetworkPolicy"), pod, REDIS, 6379)


@pytest.mark.parametrize("key", ["networkPolicy.egress.postgress.to", "networkPolicy.dns.from"])
def test_a_misspelled_destination_is_refused(helm: Helm, key: str) -> None:
    done = template(helm, "gateway", *ALONE, f"{key}[0].ipBlock.cidr=10.0.0.0/8")

    assert done.returncode != 0
