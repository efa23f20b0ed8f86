"""Write .skaffold.yaml: skaffold.yaml with the agents of one's own beside the services. `make skaffold` runs it.

An agent of one's own is a folder of services/ with a `service.toml` and a lock, as `flotilla new agent` writes it.
"""

import sys
import tomllib
from copy import deepcopy
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[1]
WRITTEN = ".skaffold.yaml"


def own_agents(root: Path) -> dict[str, str]:
    """Return the agents of one's own: the service's name → the agent's."""
    files = sorted(root.glob("services/*/service.toml"))
    found = [tomllib.loads(file.read_text(encoding="utf-8")) for file in files if _has_lock(file.parent)]
    return {str(each["name"]): str(each["agent"]) for each in found}


def _has_lock(folder: Path) -> bool:
    return (folder / "requirements.txt").exists()


def with_agents(skaffold: dict[str, Any], agents: dict[str, str]) -> dict[str, Any]:
    """Return the configuration with an image and an entry of the chart's `agents` for each agent."""
    config = deepcopy(skaffold)
    (profile,) = config["profiles"]
    values = config["deploy"]["helm"]["releases"][0]["setValueTemplates"]
    for service, agent in agents.items():
        config["build"]["artifacts"].append(_built_by_docker(service))
        profile["build"]["artifacts"].append(_built_by_buildah(service, profile))
        variable = f"localhost_flotilla_{service.replace('-', '_')}"
        values[f"agents.{agent}.image.repository"] = f"{{{{.IMAGE_REPO_{variable}}}}}"
        values[f"agents.{agent}.image.tag"] = f"{{{{.IMAGE_TAG_{variable}}}}}"
    return config


def _built_by_docker(service: str) -> dict[str, Any]:
    arguments = {"SERVICE": service, "LOCK": f"services/{service}/requirements.txt", "BASE_IMAGE": "{{.BASE_IMAGE}}"}
    return {"image": f"localhost/flotilla/{service}", "docker": {"buildArgs": arguments}}


def _built_by_buildah(service: str, profile: dict[str, Any]) -> dict[str, Any]:
    sources = deepcopy(profile["build"]["artifacts"][0]["custom"]["dependencies"])
    return {
        "image": f"localhost/flotilla/{service}",
        "custom": {"buildCommand": f"k8s/skaffold-buildah {service}", "dependencies": sources},
    }


def main(root: Path = ROOT) -> int:
    """Write the file."""
    agents = own_agents(root)
    config = with_agents(yaml.safe_load((root / "skaffold.yaml").read_text(encoding="utf-8")), agents)
    (root / WRITTEN).write_text(yaml.safe_dump(config, sort_keys=False), encoding="utf-8")
    sys.stdout.write(f"{WRITTEN}: the fleet's services{''.join(f', {name}' for name in agents)}\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
