"""The umbrella chart: what its values files render, byte for byte, and that the parts belong together."""

import os
import re
import subprocess
import sys
from base64 import b64decode
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
import yaml

from flotilla.agent.template.workflow import write_workflow
from flotilla.bus.acl import agent_redis_permissions, fleet_redis_permissions
from flotilla.config.signing import load_public_keys, load_signer
from flotilla.contracts.names import agent_role, task_stream
from flotilla.kafka.acl import kafka_permissions, strimzi_users
from tests.charts.conftest import CHARTS, ROOT, Helm, Manifest, Render, of_kind, template
from tests.support.catalog import SERVICES

GOLDEN = Path(__file__).parent / "golden"
FILES = ("demo", "production")


def _normal(text: str) -> str:
    """Without what is drawn at random: the demo's Secrets, and the certificates of two of them."""
    text = re.sub(r'(?m)^(  [a-z-]*public-keys\.pem): ".*"$', r"\1: RANDOM", text)
    documents = text.split("\n---\n")
    return "\n---\n".join(
        re.sub(r"^(  [\w.-]+): .*$", r"\1: RANDOM", each.split("\ndata:")[0], flags=re.ASCII)
        + "\ndata:"
        + re.sub(r"(?m)^(  [\w.-]+): .*$", r"\1: RANDOM", each.split("\ndata:")[1])
        if "\nkind: Secret\n" in each
        else each
        for each in documents
    )


@pytest.mark.parametrize("name", FILES)
def test_values_file_renders_as_recorded(helm: Helm, name: str) -> None:
    """FLOTILLA_UPDATE_GOLDEN=1 records again; read the difference before committing it."""
    done = template(
        helm, "flotilla", "monitoring.dashboards.enabled=false", "monitoring.rules.enabled=false",
        files=(f"flotilla/values-{name}.yaml",),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    golden = GOLDEN / f"{name}.yaml"
    if os.environ.get("FLOTILLA_UPDATE_GOLDEN"):
        golden.write_text(_normal(done.stdout), encoding="utf-8")

    assert _normal(done.stdout) == golden.read_text(encoding="utf-8")


@pytest.mark.parametrize("name", FILES)
def test_fleet_passes_lint(helm: Helm, name: str) -> None:
    done = helm("lint", "--strict", "flotilla", "--values", f"flotilla/values-{name}.yaml")

    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("private", "verifies"), [("signing-key.pem", "public-keys.pem"), ("ticket-key.pem", "ticket-public-keys.pem")]
)
def test_the_demo_trusts_the_keys_that_it_signs_with(
    render: Render, tmp_path: Path, private: str, verifies: str
) -> None:
    manifests = render("flotilla", files=("flotilla/values-demo.yaml",))
    (secret,) = [each for each in of_kind(manifests, "Secret") if private in each["data"]]
    (public,) = [each for each in of_kind(manifests, "ConfigMap") if verifies in each["data"]]
    (tmp_path / "private").write_bytes(b64decode(secret["data"][private]))
    (tmp_path / "public").write_text(public["data"][verifies])

    signer, trusted = load_signer(tmp_path / "private"), load_public_keys(tmp_path / "public")

    assert trusted.signature_problem(signer.key_id, b"statement", signer.sign(b"statement")) is None
    assert "PRIVATE" not in public["data"][verifies]


def test_the_demos_redis_users_have_the_rights_that_the_library_prints(render: Render) -> None:
    """FLOTILLA_UPDATE_GOLDEN=1 writes the chart's file."""
    file = CHARTS / "flotilla-demo/files/redis-users.acl"
    lines = [
        f"user {name} {' '.join(grant.acl_rules())} #SHA256-OF-{name}"
        for name, grant in fleet_redis_permissions().items()
    ]
    text = "\n".join(["user default on ~* &* +@all #SHA256-OF-admin", *lines]) + "\n"
    if os.environ.get("FLOTILLA_UPDATE_GOLDEN"):
        file.parent.mkdir(exist_ok=True)
        file.write_text(text, encoding="utf-8")
    assert file.read_text(encoding="utf-8") == text

    secrets = of_kind(render("flotilla", files=("flotilla/values-demo.yaml",)), "Secret")
    held = {each["metadata"]["name"]: each["data"] for each in secrets}
    users = b64decode(held["flotilla-demo-redis"]["users.acl"]).decode()
    assert "SHA256-OF" not in users
    for user, password in held["flotilla-demo-redis-users"].items():
        assert sha256(b64decode(password)).hexdigest() in users, user


def test_the_values_of_valkey_give_each_user_the_rights_that_the_library_prints() -> None:
    """FLOTILLA_UPDATE_GOLDEN=1 writes them."""
    file = ROOT / "k8s/dependencies/valkey-values.yaml"
    values = yaml.safe_load(file.read_text(encoding="utf-8"))
    users = {"default": {"permissions": "~* &* +@all"}}
    users |= {
        name: {"permissions": " ".join(grant.acl_rules()[2:])} for name, grant in fleet_redis_permissions().items()
    }
    if os.environ.get("FLOTILLA_UPDATE_GOLDEN"):
        head = file.read_text(encoding="utf-8").partition("  aclUsers:")[0]
        body = yaml.safe_dump({"aclUsers": users}, sort_keys=False, width=10_000)
        file.write_text(head + "".join(f"  {line}\n" for line in body.splitlines()), encoding="utf-8")
        values = yaml.safe_load(file.read_text(encoding="utf-8"))
    assert values["auth"]["aclUsers"] == users
    assert values["auth"]["enabled"] is True


def test_the_example_of_kafka_has_a_user_per_service_with_the_rights_that_the_library_prints() -> None:
    """FLOTILLA_UPDATE_GOLDEN=1 writes them."""
    file = ROOT / "k8s/dependencies/kafka.yaml"
    servers = [each for each in yaml.safe_load_all(file.read_text(encoding="utf-8")) if each["kind"] != "KafkaUser"]
    (kafka,) = [each for each in servers if each["kind"] == "Kafka"]
    users = strimzi_users(kafka["metadata"]["namespace"], kafka["metadata"]["name"])
    if os.environ.get("FLOTILLA_UPDATE_GOLDEN"):
        head = file.read_text(encoding="utf-8").split("---\napiVersion: kafka.strimzi.io/v1\nkind: KafkaUser")[0]
        file.write_text(head + "".join("---\n" + yaml.safe_dump(each, sort_keys=False) for each in users), "utf-8")
    written = yaml.safe_load_all(file.read_text(encoding="utf-8"))
    assert [each for each in written if each["kind"] == "KafkaUser"] == users
    assert kafka["spec"]["kafka"]["authorization"] == {"type": "simple"}


def test_each_service_of_the_production_example_logs_in_to_kafka_as_itself(render: Render) -> None:
    manifests = render("flotilla", files=("flotilla/values-production.yaml",))
    asked = {}
    for owner in of_kind(manifests, "Deployment") + of_kind(manifests, "Job"):
        (container,) = owner["spec"]["template"]["spec"]["containers"]
        secrets = [
            each["valueFrom"]["secretKeyRef"]["name"]
            for each in container["env"]
            if each["name"] in ("FLOTILLA_KAFKA_USERNAME", "FLOTILLA_KAFKA_PASSWORD")
        ]
        if secrets:
            asked[container["name"]] = set(secrets)

    users = kafka_permissions().keys() - {"scaler", "backup"}  # KEDA's own, and a Job that is off by default
    assert asked == {user: {f"flotilla-kafka-{user}"} for user in users}
    (authentication,) = [
        each for each in of_kind(manifests, "TriggerAuthentication") if "audit" in each["metadata"]["name"]
    ]
    assert {each["name"] for each in authentication["spec"]["secretTargetRef"]} == {"flotilla-kafka-scaler"}


ROOT_KEYS = "flotilla-root-keys"


def encryption_of(manifests: list[Manifest]) -> dict[str, tuple[str | None, str | None, bool]]:
    """By Deployment: whether it encrypts, where it asks for keys of sessions, and whether it has the root key."""
    found = {}
    for deployment in of_kind(manifests, "Deployment"):
        pod = deployment["spec"]["template"]["spec"]
        given = {each["name"]: each.get("value") for each in pod["containers"][0]["env"]}
        url = given.get("FLOTILLA_SESSION_KEYS_URL")
        name = deployment["metadata"]["name"].removeprefix("fleet-")
        found[name] = given.get("FLOTILLA_ENCRYPTION"), url, ROOT_KEYS in str(pod)
    return found


@pytest.mark.parametrize(("keys_only", "switch"), [("false", "on"), ("true", "off")])
def test_root_keys_are_mounted_where_sessions_keys_are_issued_and_agents_ask_there(
    render: Render, keys_only: str, switch: str
) -> None:
    more = ("agents.translate.agent.llm=false", "global.dependencies.postgres.maxConnections=0")
    values = (f"global.encryption.keysOnly={keys_only}", *more)
    manifests = render("flotilla", *values, files=("flotilla/values-production.yaml",))
    (service,) = [
        each for each in of_kind(manifests, "Service") if each["metadata"]["name"] == "fleet-workflow-worker"
    ]  # fmt: skip
    assert [port["targetPort"] for port in service["spec"]["ports"]] == ["http"]
    agents = dict.fromkeys(
        ("research-agent", "writer-agent", "tool-gateway", "translate-agent"),
        (switch, "http://fleet-workflow-worker", False),
    )
    assert encryption_of(manifests) == {
        "gateway": (switch, None, True),
        "workflow-worker": (switch, None, True),
        "outbox-relay": (None, None, False),
        "audit-consumer": (None, None, False),
        **agents,
    }


def test_the_example_of_a_key_server_mounts_no_root_key_anywhere(render: Render, tmp_path: Path) -> None:
    page = (ROOT / "docs/key-providers.md").read_text(encoding="utf-8")
    [values] = re.findall(r"```yaml\n((?:.+\n)+)```", page)
    own = tmp_path / "vault.yaml"
    own.write_text(values, encoding="utf-8")
    more = ("global.encryption.existingSecret=", "agents.translate.agent.llm=false")
    files = ("flotilla/values-production.yaml", str(own))
    manifests = render("flotilla", "global.dependencies.postgres.maxConnections=0", *more, files=files)
    services, agents = ("on", None, False), ("on", "http://flotilla-workflow-worker", False)
    assert encryption_of(manifests) == {
        "outbox-relay": (None, None, False),
        "audit-consumer": (None, None, False),
        **dict.fromkeys(("gateway", "workflow-worker"), services),
        **dict.fromkeys(("research-agent", "writer-agent", "tool-gateway", "translate-agent"), agents),
    }


def test_a_fleet_without_root_keys_encrypts_nothing(render: Render) -> None:
    values = ("global.encryption.existingSecret=",)
    found = encryption_of(render("flotilla", *values, files=("flotilla/values-production.yaml",)))
    assert set(found.values()) == {(None, None, False)}


def test_no_secret_of_the_demo_is_an_argument_or_a_plain_variable(render: Render) -> None:
    manifests = render("flotilla", files=("flotilla/values-demo.yaml",))
    secrets = {b64decode(text).decode() for each in of_kind(manifests, "Secret") for text in each["data"].values()}
    shown = [each for each in manifests if each["kind"] != "Secret"]

    assert len(secrets) > 10
    text = yaml.safe_dump(shown, width=10**6)
    assert [secret for secret in secrets if len(secret) > 8 and secret in text] == []


@pytest.mark.parametrize("name", FILES)
def test_nobody_calls_the_install_job_and_it_reaches_the_servers_only(render: Render, name: str) -> None:
    manifests = render("flotilla", files=(f"flotilla/values-{name}.yaml",))
    (policy,) = [each for each in of_kind(manifests, "NetworkPolicy") if each["metadata"]["name"] == "fleet-install"]
    (job,) = of_kind(manifests, "Job")

    assert policy["spec"]["podSelector"]["matchLabels"].items() <= job["spec"]["template"]["metadata"]["labels"].items()
    assert "ingress" not in policy["spec"]
    assert "Ingress" in policy["spec"]["policyTypes"]
    ports = {port["port"] for rule in policy["spec"]["egress"] for port in rule["ports"]}
    assert ports == {53, 5432, 6379, 9092, 9093}
    hook = job["metadata"].get("annotations", {}).get("helm.sh/hook")
    assert policy["metadata"].get("annotations", {}).get("helm.sh/hook") == hook


def test_the_demos_servers_admit_their_own_namespace_and_kedas(render: Render) -> None:
    policies = of_kind(render("flotilla", files=("flotilla/values-demo.yaml",)), "NetworkPolicy")
    servers = {each["metadata"]["name"]: each["spec"] for each in policies if "demo" in each["metadata"]["name"]}

    assert sorted(servers) == [f"flotilla-demo-{name}" for name in ("kafka", "postgres", "redis", "temporal")]
    for spec in servers.values():
        (rule,) = spec["ingress"]
        keda = {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "keda"}}}
        assert rule["from"] == [{"podSelector": {}}, keda]


def test_demo_secrets_hold_every_key_that_a_pod_asks_for(render: Render) -> None:
    manifests = render("flotilla", files=("flotilla/values-demo.yaml",))
    held = {each["metadata"]["name"]: set(each["data"]) for each in of_kind(manifests, "Secret")}

    asked = set()
    for owner in of_kind(manifests, "Deployment") + of_kind(manifests, "Job"):
        for container in owner["spec"]["template"]["spec"]["containers"]:
            sources = [entry.get("valueFrom", {}).get("secretKeyRef") for entry in container.get("env", [])]
            asked |= {(source["name"], source["key"]) for source in sources if source}
    assert asked
    assert [f"{name}/{key}" for name, key in sorted(asked) if key not in held.get(name, set())] == []


def test_every_service_is_part_of_the_fleet_and_can_be_left_out(render: Render) -> None:
    everything = render("flotilla", files=("flotilla/values-demo.yaml",))
    less = render("flotilla", "writer-agent.enabled=false", files=("flotilla/values-demo.yaml",))

    names = {each["metadata"]["name"] for each in of_kind(everything, "Deployment")}
    assert {f"fleet-{service}" for service in SERVICES} <= names
    assert names - {each["metadata"]["name"] for each in of_kind(less, "Deployment")} == {"fleet-writer-agent"}


def test_install_job_has_a_name_per_content_and_is_a_hook_only_when_asked(render: Render) -> None:
    (job,) = of_kind(render("flotilla", files=("flotilla/values-demo.yaml",)), "Job")
    (hook,) = of_kind(render("flotilla", files=("flotilla/values-production.yaml",)), "Job")

    assert re.fullmatch("fleet-install-[0-9a-f]{8}", job["metadata"]["name"])
    assert "annotations" not in job["metadata"]
    assert hook["metadata"]["annotations"]["helm.sh/hook"] == "pre-install,pre-upgrade"


def test_a_hook_may_not_wait_for_a_database_of_the_release(helm: Helm) -> None:
    done = template(helm, "flotilla", "install.mode=hook", files=("flotilla/values-demo.yaml",))

    assert done.returncode != 0
    assert "set install.mode=job" in done.stderr


def test_a_wrong_key_of_a_service_is_refused_through_the_fleet(helm: Helm) -> None:
    done = template(helm, "flotilla", "gateway.replicass=2", files=("flotilla/values-demo.yaml",))

    assert done.returncode != 0
    assert "replicass" in done.stderr


def test_schemas_are_what_the_values_say() -> None:
    done = subprocess.run(
        [sys.executable, CHARTS / "schema.py", "--check"], capture_output=True, text=True, check=False
    )

    assert done.returncode == 0, done.stderr


def test_scalers_ask_for_the_streams_and_groups_of_the_contract(render: Render) -> None:
    from flotilla.contracts.names import AUDIT_GROUP, SESSION_EVENTS_TOPIC, TASK_QUEUE, agent_group, task_stream

    scaled = of_kind(render("flotilla", files=("flotilla/values-production.yaml",)), "ScaledObject")
    triggers = {each["metadata"]["name"]: each["spec"]["triggers"][0]["metadata"] for each in scaled}

    for service, agent in (("research-agent", "research"), ("writer-agent", "write"), ("tool-gateway", "mcp")):
        assert triggers[f"fleet-{service}"]["stream"] == task_stream(agent)
        assert triggers[f"fleet-{service}"]["consumerGroup"] == agent_group(agent)
    assert triggers["fleet-audit-consumer"]["topic"] == SESSION_EVENTS_TOPIC
    assert triggers["fleet-audit-consumer"]["consumerGroup"] == AUDIT_GROUP
    assert triggers["fleet-workflow-worker"]["taskQueue"] == TASK_QUEUE


OWN = ("agents.translate.replicas=2", "agents.word-count.autoscaling.keda.enabled=true", "agents.off.enabled=false")


def test_an_entry_of_agents_is_installed_like_the_fleets_own(render: Render) -> None:
    manifests = render("flotilla", *OWN, files=("flotilla/values-demo.yaml",))
    deployments = {each["metadata"]["name"]: each for each in of_kind(manifests, "Deployment")}
    pods = {name: each["spec"]["template"]["spec"] for name, each in deployments.items()}

    assert {"fleet-translate-agent", "fleet-word-count-agent"} <= set(deployments)
    assert "fleet-off-agent" not in deployments
    assert deployments["fleet-translate-agent"]["spec"]["replicas"] == 2
    own, ours = (_as_agent(pods[f"fleet-{service}"], name) for service, name in (
        ("translate-agent", "translate"), ("research-agent", "research"),
    ))  # fmt: skip
    assert own == ours
    (scaled,) = of_kind(manifests, "ScaledObject")
    assert {each["metadata"]["stream"] for each in scaled["spec"]["triggers"]} == {task_stream("word-count")}
    (job,) = of_kind(manifests, "Job")
    environment = {each["name"]: each.get("value") for each in job["spec"]["template"]["spec"]["containers"][0]["env"]}
    assert environment["FLOTILLA_INSTALL_AGENTS"] == "research,write,mcp,translate,word-count"


def _as_agent(pod: dict[str, Any], name: str) -> str:
    """The pod without what is this agent's own."""
    text = yaml.safe_dump(pod)
    for own in (f"{name}-agent", f"value: {name}", f"key: flotilla_agent_{name}"):
        text = text.replace(own, own.replace(name, "AGENT"))
    return text


def test_an_own_agents_redis_user_has_the_rights_that_the_library_prints(render: Render) -> None:
    secrets = of_kind(render("flotilla", *OWN, files=("flotilla/values-demo.yaml",)), "Secret")
    held = {each["metadata"]["name"]: each["data"] for each in secrets}
    users = b64decode(held["flotilla-demo-redis"]["users.acl"]).decode().splitlines()

    for agent in ("translate", "word-count"):
        password = b64decode(held["flotilla-demo-redis-users"][f"{agent}-agent"])
        rules = " ".join(agent_redis_permissions(agent).acl_rules())
        assert f"user {agent}-agent {rules} #{sha256(password).hexdigest()}" in users
        url = b64decode(held["flotilla-demo-redis"][f"{agent}-agent"]).decode()
        assert url.startswith(f"redis://{agent}-agent:{password.decode()}@")


def test_an_own_agent_logs_in_to_postgresql_as_itself(render: Render) -> None:
    manifests = render("flotilla", *OWN, files=("flotilla/values-demo.yaml",))
    held = {each["metadata"]["name"]: each["data"] for each in of_kind(manifests, "Secret")}
    (job,) = of_kind(manifests, "Job")
    volumes = job["spec"]["template"]["spec"]["volumes"]
    (mounted,) = [each["secret"]["secretName"] for each in volumes if "secret" in each]

    for agent in ("translate", "word-count"):
        role = agent_role(agent)
        password = b64decode(held[mounted][role]).decode()
        assert b64decode(held["flotilla-demo-postgres"][role]).decode().startswith(f"postgresql://{role}:{password}@")
    assert "flotilla_agent" not in held[mounted]


@pytest.mark.parametrize("entry", ["agents.Word_Count.replicas=1", "agents.translate.replicass=1"])
def test_an_entry_of_agents_with_a_wrong_name_or_key_is_refused(helm: Helm, entry: str) -> None:
    done = template(helm, "flotilla", entry, files=("flotilla/values-demo.yaml",))

    assert done.returncode != 0
    assert entry.split("=", maxsplit=1)[0].split(".")[-1 if "replicass" in entry else 1] in done.stderr


def test_values_of_an_entry_win_over_those_of_all_even_where_they_say_no(render: Render) -> None:
    values = ("agentDefaults.networkPolicy.enabled=true", "agents.translate.networkPolicy.enabled=false",
              "agents.translate.replicas=0", "agentDefaults.resources.limits.memory=1Gi")  # fmt: skip
    manifests = render("flotilla", *values, files=("flotilla/values-demo.yaml",))

    assert "fleet-translate-agent" not in {each["metadata"]["name"] for each in of_kind(manifests, "NetworkPolicy")}
    (own,) = [each for each in of_kind(manifests, "Deployment") if "translate" in each["metadata"]["name"]]
    assert own["spec"]["replicas"] == 0
    assert own["spec"]["template"]["spec"]["containers"][0]["resources"]["limits"]["memory"] == "1Gi"


WORKERS = ("workers.briefings.image.repository=registry.example.com/briefings", "workers.briefings.image.tag=1.4",
           "workers.briefings.replicas=2", "workers.reports.autoscaling.keda.enabled=true", "workers.off.enabled=false",
           "workflow-worker.replicas=3", "workflow-worker.settings.FLOTILLA_AGENTS=research")  # fmt: skip


def test_an_entry_of_workers_is_the_fleets_worker_on_a_task_queue_of_its_own(render: Render) -> None:
    manifests = render("flotilla", *WORKERS, files=("flotilla/values-demo.yaml",))
    deployments = {each["metadata"]["name"]: each["spec"] for each in of_kind(manifests, "Deployment")}
    assert "fleet-off-worker" not in deployments
    replicas = {
        name: deployments[f"fleet-{name}-worker"].get("replicas") for name in ("briefings", "workflow", "reports")
    }
    assert replicas == {"briefings": 2, "workflow": 3, "reports": None}

    container = deployments["fleet-briefings-worker"]["template"]["spec"]["containers"][0]
    assert container["image"] == "registry.example.com/briefings:1.4"
    own, ours = ({each["name"]: each for each in deployments[name]["template"]["spec"]["containers"][0]["env"]}
                 for name in ("fleet-briefings-worker", "fleet-workflow-worker"))  # fmt: skip
    differing = {name for name in own | ours if own.get(name) != ours.get(name)}
    assert differing == {"FLOTILLA_TASK_QUEUE"}
    assert own["FLOTILLA_TASK_QUEUE"]["value"] == "briefings"
    queues = {trigger["metadata"]["taskQueue"] for each in of_kind(manifests, "ScaledObject")
              for trigger in each["spec"]["triggers"] if trigger["type"] == "temporal"}  # fmt: skip
    assert queues == {"reports"}


def test_the_values_of_a_new_workflow_are_a_worker_with_its_image(render: Render, tmp_path: Path) -> None:
    write_workflow("brief", tmp_path, wheels=tmp_path)
    manifests = render("flotilla", files=("flotilla/values-demo.yaml", str(tmp_path / "values.yaml")))
    deployments = {
        each["metadata"]["name"]: each["spec"]["template"]["spec"] for each in of_kind(manifests, "Deployment")
    }
    (container,) = deployments["fleet-brief-worker"]["containers"]
    built = "registry.example.com/brief-worker:0.1.0"
    assert container["image"] == built
    assert f"-t {built} ." in (tmp_path / "Dockerfile").read_text()


def test_an_agent_with_the_name_of_a_built_in_one_takes_its_place_or_is_refused(helm: Helm) -> None:
    demo = ("flotilla/values-demo.yaml",)
    refused = template(helm, "flotilla", "agents.research.replicas=1", files=demo)
    assert refused.returncode != 0
    assert "agents.research would have the objects of research-agent" in refused.stderr
    alone = template(helm, "flotilla", "agents.research.replicas=1", "research-agent.enabled=false", files=demo)
    assert alone.returncode == 0, alone.stderr


@pytest.mark.parametrize(
    ("values", "why"),
    [
        (("workers.Own_Ones.replicas=1",), "Own_Ones"),
        (("workers.own.replicass=1",), "replicass"),
        (("workers.own.settings.FLOTILLA_TASK_QUEUE=rag-agent-queue",), "has the task queue"),
        (("workers.workflow.replicas=1",), "choose another name"),
        (("workers.own.replicas=1", "workers.other.settings.FLOTILLA_TASK_QUEUE=own"), "have the same task queue own"),
        (("workers.own.replicas=1", "workflow-worker.enabled=false"), "which is not enabled"),
    ],
)
def test_an_entry_of_workers_that_could_not_work_is_refused(helm: Helm, values: tuple[str, ...], why: str) -> None:
    done = template(helm, "flotilla", *values, files=("flotilla/values-demo.yaml",))
    assert done.returncode != 0
    assert why in done.stderr


def test_monitoring_is_shipped_with_the_fleet(render: Render) -> None:
    manifests = render("flotilla", files=("flotilla/values-production.yaml",))

    shipped = {name for each in of_kind(manifests, "ConfigMap") for name in each["data"]}
    assert shipped == {path.name for path in (ROOT / "k8s/monitoring/dashboards").glob("*.json")}
    (rules,) = of_kind(manifests, "PrometheusRule")
    assert rules["spec"]["groups"]
