"""Every list of services says what the service.toml files say: one that forgets a service fails here, by name."""

import re
import runpy
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from flotilla.agent.template import write_agent
from flotilla.bus.acl import fleet_redis_permissions
from flotilla.contracts.names import agent_role
from flotilla.install.settings import Settings as InstallSettings
from flotilla.kafka.acl import kafka_permissions
from flotilla_devstack.redis_users import USERS
from flotilla_devstack.services import BUILT_IN_AGENTS
from flotilla_devstack.services import SERVICES as LOCAL
from tests.packaging.test_installs_alone import ABSENT
from tests.support.catalog import CATALOG, SERVICES_FOLDER, Declared
from tests.support.charts import chart_of
from tests.unit.config.test_documentation import PROGRAMS

ROOT = Path(__file__).parents[2]
NAMES = set(CATALOG)
MODULES = {each.module for each in CATALOG.values()}
AGENTS = [each.agent for each in CATALOG.values() if each.agent]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]
OWN = "word-count-agent"
CONTRACTS = {each["name"]: each for each in PYPROJECT["importlinter"]["contracts"]}


def read(path: str) -> str:
    return (ROOT / path).read_text(encoding="utf-8")


def chart(service: str) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load(read(f"charts/{chart_of(service)[0]}/Chart.yaml"))
    return found


def test_every_folder_of_services_declares_itself_under_its_own_name() -> None:
    folders = {folder.parent.name for folder in SERVICES_FOLDER.glob("*/pyproject.toml")}
    own = {folder.parent.name for folder in SERVICES_FOLDER.glob("*/requirements.txt")}
    assert folders - own == NAMES
    for name, service in CATALOG.items():
        assert (SERVICES_FOLDER / name / service.module / "main.py").exists()


@pytest.mark.parametrize("service", CATALOG.values(), ids=CATALOG)
def test_its_package_has_its_name_and_its_command(service: Declared) -> None:
    project = tomllib.loads(read(f"services/{service.name}/pyproject.toml"))["project"]
    assert project["name"] == f"flotilla-fleet-{service.name}"
    assert project["scripts"] == {service.name: f"{service.module}.main:main"}


def test_the_workspace_checks_every_service() -> None:
    assert set(PYPROJECT["importlinter"]["root_packages"]) >= MODULES
    assert set(CONTRACTS["No service imports another"]["modules"]) == MODULES
    assert set(CONTRACTS["The library knows no service and no tool"]["forbidden_modules"]) >= MODULES
    agents = {each.module for each in CATALOG.values() if each.agent}
    assert agents <= set(CONTRACTS["Agents need no Temporal"]["source_modules"])
    assert set(PYPROJECT["ruff"]["lint"]["isort"]["known-first-party"]) >= MODULES
    assert {f"services/{name}" for name in NAMES} <= set(PYPROJECT["mypy"]["mypy_path"])


def test_every_service_is_locked() -> None:
    assert {f"./services/{name}" for name in NAMES} <= set(read("locks/dev.in").splitlines())
    assert [name for name in NAMES if not (ROOT / f"locks/{name}.txt").exists()] == []


def test_skaffold_builds_and_installs_every_service() -> None:
    skaffold = yaml.safe_load(read("skaffold.yaml"))
    (profile,) = skaffold["profiles"]
    for build in (skaffold["build"], profile["build"]):
        assert {each["image"] for each in build["artifacts"]} == {f"localhost/flotilla/{name}" for name in NAMES}
    given = skaffold["deploy"]["helm"]["releases"][0]["setValueTemplates"]
    assert {key.split(".")[0] for key in given} - {"install"} == NAMES


def test_skaffold_builds_and_installs_agents_of_ones_own(tmp_path: Path) -> None:
    (tmp_path / "skaffold.yaml").write_text(read("skaffold.yaml"), "utf-8")
    write_agent("word-count", tmp_path / "services/word-count-agent")
    runpy.run_path(str(ROOT / "k8s/skaffold.py"))["main"](tmp_path)
    written = yaml.safe_load((tmp_path / ".skaffold.yaml").read_text("utf-8"))
    for build in (written["build"], written["profiles"][0]["build"]):
        assert {each["image"] for each in build["artifacts"]} == {
            f"localhost/flotilla/{name}" for name in (*NAMES, OWN)
        }
    arguments = written["build"]["artifacts"][-1]["docker"]["buildArgs"]
    assert (arguments["SERVICE"], arguments["LOCK"]) == (OWN, f"services/{OWN}/requirements.txt")
    given = written["deploy"]["helm"]["releases"][0]["setValueTemplates"]
    assert given["agents.word-count.image.tag"] == "{{.IMAGE_TAG_localhost_flotilla_word_count_agent}}"


def test_the_fleets_chart_installs_every_service() -> None:
    parts = yaml.safe_load(read("charts/flotilla/Chart.yaml"))["dependencies"]
    conditions = {each.get("alias", each["name"]): each.get("condition") for each in parts}
    values = yaml.safe_load(read("charts/flotilla/values.yaml"))
    for name in NAMES:
        assert conditions[name] == f"{name}.enabled"
        assert values[name]["enabled"] is True
    assert {name: values[name]["agent"]["name"] for name in NAMES if CATALOG[name].agent} == {
        each.name: each.agent for each in CATALOG.values() if each.agent
    }


@pytest.mark.parametrize("service", CATALOG.values(), ids=CATALOG)
def test_its_chart_reaches_what_it_uses_as_its_role(service: Declared) -> None:
    annotations = chart(service.name)["annotations"]
    uses = annotations["flotilla/uses"].split(",")
    if service.agent:
        values = yaml.safe_load(read("charts/flotilla/values.yaml"))[service.name]["agent"]
        uses += ["llm"] if values.get("llm") else []
    assert tuple(uses) == service.uses
    role = agent_role(service.agent) if service.agent else annotations["flotilla/postgres-role"]
    assert role == service.postgres_role


@pytest.mark.parametrize("service", CATALOG.values(), ids=CATALOG)
def test_the_local_stack_runs_it_as_its_role_on_its_ports(service: Declared) -> None:
    spec = LOCAL[service.name]
    assert (spec.module, spec.role, set(spec.port_variables)) == (
        service.module,
        service.postgres_role,
        set(service.ports),
    )
    assert USERS.get(service.name) == service.redis_user


def test_the_local_stack_runs_nothing_else() -> None:
    assert set(LOCAL) == NAMES


def test_each_service_on_redis_or_kafka_has_a_user() -> None:
    assert {each.redis_user for each in CATALOG.values() if "redis" in each.uses} == set(fleet_redis_permissions()) - {
        "scaler"
    }
    assert {each.name for each in CATALOG.values() if "kafka" in each.uses} == set(kafka_permissions()) - {
        "install",
        "backup",
        "scaler",
    }


def test_the_installer_knows_the_agents() -> None:
    assert sorted(InstallSettings.model_fields["install_agents"].default) == sorted(AGENTS)
    assert sorted(yaml.safe_load(read("charts/flotilla/values.yaml"))["install"]["agents"]) == sorted(AGENTS)
    assert sorted(BUILT_IN_AGENTS) == sorted(AGENTS)


def test_every_service_is_documented_and_installs_alone() -> None:
    assert set(PROGRAMS) - {"install"} == NAMES
    assert set(ABSENT) == NAMES
    assert set(re.findall(r"^\| `([a-z-]+)` \|", read("docs/architecture.md"), re.MULTILINE)) >= NAMES
