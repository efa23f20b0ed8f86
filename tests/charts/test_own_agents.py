"""Agents in releases of their own: in another language, and in two versions."""

import re
from pathlib import Path
from typing import Any

import yaml

from tests.charts.conftest import Render, of_kind

ROOT = Path(__file__).parents[2]
EXAMPLE = str(ROOT / "examples/typescript/values.yaml")


def test_an_agent_in_another_language_is_a_pod_of_two_containers_that_share_a_key(render: Render) -> None:
    [deployment] = of_kind(render("agent", files=(EXAMPLE,)), "Deployment")
    sidecar, program = deployment["spec"]["template"]["spec"]["containers"]
    given = {each["name"]: each for each in program["env"]}
    own = {each["name"]: each for each in sidecar["env"]}
    assert set(given) == {"FLOTILLA_SIDECAR_URL", "FLOTILLA_SIDECAR_KEY"}, (
        "the program gets none of the agent's secrets"
    )
    assert given["FLOTILLA_SIDECAR_KEY"] == own["FLOTILLA_SIDECAR_KEY"]
    assert given["FLOTILLA_SIDECAR_URL"]["value"].endswith(f":{own['FLOTILLA_SIDECAR_PORT']['value']}")
    assert own["FLOTILLA_AGENT_NAME"]["value"] == "refunds-typescript"


def test_a_version_beside_the_other_has_objects_of_its_own_and_the_same_agent(render: Render, tmp_path: Path) -> None:
    page = (ROOT / "docs/agents.md").read_text(encoding="utf-8")
    [values] = re.findall(r"```yaml\n# helm install writer-agent-2 .*\n((?:.+\n)+)```", page)
    second = tmp_path / "version-2.yaml"
    second.write_text(values, encoding="utf-8")
    [one] = of_kind(render("agent", "agent.name=write", files=(EXAMPLE,)), "Deployment")
    [two] = of_kind(render("agent", files=(EXAMPLE, str(second))), "Deployment")
    assert one["metadata"]["name"] != two["metadata"]["name"]
    assert one["spec"]["selector"] != two["spec"]["selector"]
    assert two["spec"]["replicas"] == 1
    assert _environment(two)["FLOTILLA_AGENT_NAME"] == _environment(one)["FLOTILLA_AGENT_NAME"] == "write"
    assert yaml.safe_load(values)["agent"]["service"] in two["metadata"]["name"]


def _environment(deployment: Any) -> dict[str, str]:
    first = deployment["spec"]["template"]["spec"]["containers"][0]
    return {each["name"]: each.get("value", "") for each in first["env"]}
