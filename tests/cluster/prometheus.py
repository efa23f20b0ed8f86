"""A Prometheus that scrapes the pods of namespaces through the API server, so that KUBECONFIG is all it needs.

`python -m tests.cluster.prometheus NAMESPACE SECONDS` watches a fleet and says what it scrapes, which alerts
fired, and which queries of the dashboards gave nothing.
"""

import json
import math
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import httpx
import yaml

from flotilla_devstack.ports import free_port
from tests.cluster.kubernetes import ROOT, Namespace

MONITORING = ROOT / "k8s/monitoring"
FACTOR = 10
"""The rules' times, `for` and `[window]` alike, are divided by it; expressions and thresholds stay."""
SCRAPE_S = 5
_UNITS = {"s": 1, "m": 60, "h": 3600}
_TIMES = re.compile(r"(?P<before>\bfor: |\[|\boffset )(?P<number>\d+)(?P<unit>[smh])(?=\]|$)", re.MULTILINE)


Alert: TypeAlias = tuple[str, str]
"""Its name, and the namespace of the fleet that it is about."""
Fleets: TypeAlias = Mapping[str, Mapping[str, str]]
"""What relabelings set for the pods of a namespace: `namespace` and `release` of the fleet that they belong to."""


@dataclass(frozen=True)
class Prometheus:
    """Its HTTP API."""

    url: str
    began: float = field(default_factory=time.time)

    def ask(self, path: str, **parameters: object) -> Any:
        answer = httpx.get(f"{self.url}/api/v1/{path}", params={k: str(v) for k, v in parameters.items()}, timeout=30)
        assert answer.status_code == 200, answer.text
        return answer.json()["data"]

    def is_up(self) -> bool:
        """Whether it answers already."""
        try:
            return httpx.get(f"{self.url}/-/ready", timeout=5).status_code == 200
        except httpx.TransportError:
            return False

    def firing(self) -> set[str]:
        """Alerts that fire now."""
        return {alert for alert, _ in self.firing_where()}

    def firing_where(self) -> set[Alert]:
        """Alerts that fire now, each with the namespace of its fleet."""
        return {_alert(each["labels"]) for each in self.ask("alerts")["alerts"] if each["state"] == "firing"}

    def fired(self, since: float) -> set[str]:
        """Alerts that fired at any time since."""
        return {alert for alert, _ in self.fired_where(since)}

    def fired_where(self, since: float) -> set[Alert]:
        """Alerts that fired at any time since, each with the namespace of its fleet."""
        found = self._range('max by (alertname, namespace) (ALERTS{alertstate="firing"})', since)
        return {_alert(series["metric"]) for series in found}

    def has_data(self, query: str) -> bool:
        """Whether a query had a number at any time since the start."""
        values = [value for series in self._range(query, self.began) for _, value in series["values"]]
        return any(math.isfinite(float(value)) for value in values)

    def targets(self) -> dict[str, str]:
        """What is scraped, pod and port, and how it is."""
        active = self.ask("targets")["activeTargets"]
        return {f"{each['labels']['pod']}:{each['labels']['port']}": each["health"] for each in active}

    def _range(self, query: str, since: float) -> Any:
        return self.ask("query_range", query=query, start=since, end=time.time(), step=SCRAPE_S)["result"]


def _alert(labels: Mapping[str, str]) -> Alert:
    return labels["alertname"], labels.get("namespace", "")


@contextmanager
def prometheus(namespaces: Sequence[Namespace], folder: Path, fleets: Fleets | None = None) -> Iterator[Prometheus]:
    """Runs it, with the fleet's rules, as long as the block."""
    program = shutil.which("prometheus")
    assert program, "prometheus is not on PATH: apt-get install -y prometheus"
    proxy, own = free_port(), free_port()
    (folder / "rules.yaml").write_text(hastened((MONITORING / "rules.yaml").read_text(encoding="utf-8")))
    (folder / "prometheus.yaml").write_text(yaml.safe_dump(_settings()))
    server = [program, f"--config.file={folder}/prometheus.yaml", f"--storage.tsdb.path={folder}/data"]
    with (
        _running(["kubectl", "proxy", f"--port={proxy}"], folder / "proxy.log"),
        _targets_kept(namespaces, fleets or {}, proxy, folder / "targets.json"),
        _running([*server, f"--web.listen-address=127.0.0.1:{own}"], folder / "prometheus.log"),
    ):
        yield Prometheus(f"http://127.0.0.1:{own}")


def hastened(rules: str) -> str:
    """The same rules, `FACTOR` times faster."""
    return _TIMES.sub(lambda found: f"{found['before']}{_seconds(found) // FACTOR}s", rules)


def _seconds(found: re.Match[str]) -> int:
    return int(found["number"]) * _UNITS[found["unit"]]


def panels() -> dict[str, str]:
    """Every query of every dashboard, by dashboard, panel and number."""
    return {
        f"{board['title']}: {panel['title']} {target['refId']}": target["expr"]
        .replace("$__rate_interval", "1m")
        .replace(', release=~"$release"', "")
        .replace("$namespace", ".*")
        for board in (json.loads(path.read_text(encoding="utf-8")) for path in (MONITORING / "dashboards").iterdir())
        for panel in board["panels"]
        for target in panel["targets"]
    }


def _settings() -> dict[str, Any]:
    return {
        "global": {"scrape_interval": f"{SCRAPE_S}s", "evaluation_interval": f"{SCRAPE_S}s"},
        "rule_files": ["rules.yaml"],
        "scrape_configs": [
            {"job_name": "pods", "file_sd_configs": [{"files": ["targets.json"], "refresh_interval": f"{SCRAPE_S}s"}]},
        ],
    }


@contextmanager
def _targets_kept(namespaces: Sequence[Namespace], fleets: Fleets, proxy: int, file: Path) -> Iterator[None]:
    """Names the pods again every few seconds (Debian's Prometheus is built without Kubernetes' discovery)."""
    stop = threading.Event()

    def name() -> None:
        # Renamed into its place, since Prometheus may read it at any time.
        new = file.with_suffix(".new")
        found = [target for each in namespaces for target in _targets(each, fleets.get(each.name, {}), proxy)]
        new.write_text(json.dumps(found))
        new.replace(file)

    def keep_naming() -> None:
        while not stop.wait(SCRAPE_S):
            name()

    name()
    naming = threading.Thread(target=keep_naming)
    naming.start()
    try:
        yield
    finally:
        stop.set()
        naming.join()


def _targets(namespace: Namespace, fleet: Mapping[str, str], proxy: int) -> list[dict[str, Any]]:
    """What the PodMonitors name: the fleet's pods, at each port whose name begins with `metrics`."""
    found = namespace.get("pods", "--selector", "app.kubernetes.io/part-of=flotilla")
    at = f"/api/v1/namespaces/{namespace.name}/pods"
    return [
        {
            "targets": [f"127.0.0.1:{proxy}"],
            "labels": {
                "namespace": namespace.name,
                "release": pod["metadata"]["labels"]["app.kubernetes.io/instance"],
                **fleet,
                "pod": pod["metadata"]["name"],
                "port": port["name"],
                "__metrics_path__": f"{at}/{pod['metadata']['name']}:{port['containerPort']}/proxy/metrics",
            },
        }
        for pod in found
        if pod["status"]["phase"] == "Running"
        for container in pod["spec"]["containers"]
        for port in container.get("ports", [])
        if port["name"].startswith("metrics")
    ]


@contextmanager
def _running(command: list[str], log: Path) -> Iterator[None]:
    with log.open("w") as told:
        process = subprocess.Popen(command, stdout=told, stderr=subprocess.STDOUT)
        try:
            yield
        finally:
            process.terminate()
            process.wait(timeout=60)


def main(namespace: str, seconds: float) -> None:
    """Watches, and prints what it saw."""
    with tempfile.TemporaryDirectory() as folder, prometheus([Namespace(namespace)], Path(folder)) as server:
        time.sleep(seconds)
        queries = panels()
        without = [name for name, query in queries.items() if not server.has_data(query)]
        sys.stdout.write(f"scraped: {json.dumps(server.targets(), indent=2)}\n")
        sys.stdout.write(f"fired: {', '.join(sorted(server.fired(server.began))) or 'nothing'}\n")
        sys.stdout.write(f"{len(queries)} queries, without data: {', '.join(without) or 'none'}\n")


if __name__ == "__main__":
    main(sys.argv[1], float(sys.argv[2]))
