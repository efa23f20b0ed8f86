"""Prints the CycloneDX SBOM of a service's image, from its locked requirements: `python k8s/sbom.py gateway 0.1.0`."""

import json
import re
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
_PIN = re.compile(r"^([A-Za-z0-9._-]+)==([^\s;\\]+)", re.MULTILINE)


def sbom(service: str, version: str) -> dict[str, object]:
    """The document; the operating system's packages are the base image's own matter."""
    pins = _PIN.findall(_lock(service).read_text(encoding="utf-8"))
    return {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {"component": {"type": "container", "name": f"flotilla-{service}", "version": version}},
        "components": [
            {"type": "library", "name": name, "version": pin, "purl": f"pkg:pypi/{name.lower()}@{pin}"}
            for name, pin in pins
        ],
    }


def _lock(service: str) -> Path:
    """An agent of one's own has its lock in its folder."""
    lock = ROOT / "locks" / f"{service}.txt"
    return lock if lock.exists() else ROOT / "services" / service / "requirements.txt"


if __name__ == "__main__":
    sys.stdout.write(json.dumps(sbom(*sys.argv[1:3]), indent=1) + "\n")
