"""Compare what checkov, kube-score and hadolint find with k8s/accepted.toml: `k8s/judge`, which puts them on PATH."""

import json
import re
import subprocess
import sys
import tempfile
import tomllib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
DOCKERFILES = ("Dockerfile", "k8s/demo/Dockerfile")
_ALL_IS_WELL = 10


@dataclass(frozen=True)
class Finding:
    """What a judge holds against an object: `where` is `<values file>: <Kind>/<name>`, or a Dockerfile."""

    judge: str
    check: str
    where: str
    message: str


@dataclass(frozen=True)
class Accepted:
    """Findings that stay: a judge's checks, on the objects that `where` matches, and why."""

    judge: str
    checks: tuple[str, ...]
    where: str
    reason: str

    def covers(self, finding: Finding) -> bool:
        """Whether the finding is one of them."""
        return (
            finding.judge == self.judge
            and finding.check in self.checks
            and re.search(self.where, finding.where) is not None
        )


def rendered(values: str) -> str:
    """Return the manifests of the fleet with a values file."""
    command = ["helm", "template", "fleet", "charts/flotilla", "-n", "flotilla", "-f", f"charts/flotilla/{values}"]
    return _output(command)


def by_checkov(values: str, manifests: Path) -> Iterator[Finding]:
    """Yield what checkov finds."""
    said = _output(["checkov", "-f", str(manifests), "--framework", "kubernetes", "--compact", "-o", "json"])
    for each in json.loads(said)["results"]["failed_checks"]:
        kind, _, name = each["resource"].split(".", 2)
        yield Finding("checkov", each["check_id"], f"{values}: {kind}/{name}", each["check_name"])


def by_kube_score(values: str, manifests: Path) -> Iterator[Finding]:
    """Yield what kube-score calls critical or a warning."""
    for each in json.loads(_output(["kube-score", "score", "-o", "json", str(manifests)])) or ():
        where = f"{values}: {each['type_meta']['kind']}/{each['object_meta']['name']}"
        for check in each["checks"]:
            if check["skipped"] or check["grade"] >= _ALL_IS_WELL:
                continue
            for comment in check["comments"] or ():
                yield Finding("kube-score", check["check"]["id"], where, comment["summary"])


def by_hadolint(file: str) -> Iterator[Finding]:
    """Yield what hadolint finds."""
    for each in json.loads(_output(["hadolint", "--format", "json", file])):
        yield Finding("hadolint", each["code"], file, f"line {each['line']}: {each['message']}")


def _output(command: list[str]) -> str:
    """Judges end with 1 where they find something; one that says nothing has failed."""
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if not done.stdout:
        raise SystemExit(f"{command[0]} failed: {done.stderr}")
    return done.stdout


def findings() -> list[Finding]:
    """Return everything that is found."""
    found = [each for file in DOCKERFILES for each in by_hadolint(file)]
    with tempfile.TemporaryDirectory() as folder:
        for values in ("values-demo.yaml", "values-production.yaml"):
            manifests = Path(folder) / values
            manifests.write_text(rendered(values), encoding="utf-8")
            found += [*by_checkov(values, manifests), *by_kube_score(values, manifests)]
    return found


def main() -> int:
    """Print the counts, what is not accepted, and what is accepted in vain; return the exit code."""
    entries = tomllib.loads((ROOT / "k8s/accepted.toml").read_text(encoding="utf-8")).get("accepted", [])
    accepted = [Accepted(each["judge"], tuple(each["checks"]), each["where"], each["reason"]) for each in entries]
    found = findings()
    new = [each for each in found if not any(entry.covers(each) for entry in accepted)]
    vain = [entry for entry in accepted if not any(entry.covers(each) for each in found)]
    for judge, count in sorted(Counter(each.judge for each in found).items()):
        sys.stdout.write(f"{judge}: {count} findings, {sum(each.judge == judge for each in new)} not accepted\n")
    for each in new:
        sys.stdout.write(f"  {each.judge} {each.check} {each.where}: {each.message}\n")
    for entry in vain:
        sys.stdout.write(f"  accepted in vain, take it out: {entry.judge} {', '.join(entry.checks)} {entry.where}\n")
    return 1 if new or vain else 0


if __name__ == "__main__":
    raise SystemExit(main())
