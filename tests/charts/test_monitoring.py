"""Rules and dashboards speak only of metrics and labels that the fleet declares, and each alert has its page."""

import json
import re
import shutil
import subprocess
import sys
from typing import Any

import pytest
import yaml
from prometheus_client import Counter, Histogram
from prometheus_client.metrics import MetricWrapperBase

from flotilla.telemetry import metrics
from tests.charts.conftest import ROOT
from tests.cluster.prometheus import hastened

MONITORING = ROOT / "k8s/monitoring"
# Of the Temporal SDK: name to labels beside `namespace` and `task_queue`.
TEMPORAL = {
    "temporal_worker_task_slots_available": {"worker_type"},
    "temporal_worker_task_slots_used": {"worker_type"},
    "temporal_sticky_cache_size": set[str](),
}
# What a PodMonitor puts on every series of a pod.
TARGET = {"namespace", "release", "job"}
_NAME = re.compile(r"\b(?:flotilla|temporal)_[a-z_]+\b")
_LABELS = re.compile(r"(?:by|on|without)\s*\(([^)]*)\)")
_MATCHED = re.compile(r"([a-z_]+)\s*(?:=~|!~|!=|=)\s*\"")


def _declared() -> dict[str, set[str]]:
    series = {name: set(labels) for name, labels in TEMPORAL.items()}
    for metric in vars(metrics).values():
        if not isinstance(metric, MetricWrapperBase):
            continue
        name, labels = metric._name, set(metric._labelnames)
        if isinstance(metric, Histogram):
            series |= {f"{name}_bucket": labels | {"le"}, f"{name}_count": labels, f"{name}_sum": labels}
        else:
            series[f"{name}_total" if isinstance(metric, Counter) else name] = labels
    return series


def _dashboards() -> dict[str, dict[str, Any]]:
    return {
        path.name: json.loads(path.read_text(encoding="utf-8")) for path in (MONITORING / "dashboards").glob("*.json")
    }


def _rules() -> list[dict[str, Any]]:
    groups = yaml.safe_load((MONITORING / "rules.yaml").read_text(encoding="utf-8"))["groups"]
    return [rule for group in groups for rule in group["rules"]]


def _queries() -> list[tuple[str, str]]:
    panels = [
        (f"{name}: {panel['title']}", target["expr"])
        for name, board in _dashboards().items()
        for panel in board["panels"]
        for target in panel["targets"]
    ]
    return panels + [(rule.get("alert") or rule["record"], rule["expr"]) for rule in _rules()]


@pytest.mark.parametrize(("where", "query"), _queries(), ids=lambda value: value if len(value) < 60 else "")
def test_queries_name_declared_metrics_and_labels(where: str, query: str) -> None:
    declared = _declared()
    without_strings = re.sub(r'"[^"]*"', '""', query)
    without_groups = _LABELS.sub("", without_strings)
    names = set(_NAME.findall(without_groups))
    labels = {
        label.strip() for group in _LABELS.findall(without_strings) for label in group.split(",") if label.strip()
    }
    labels |= set(_MATCHED.findall(without_strings))

    assert names <= declared.keys(), f"{where} names what no service exposes"
    if names:
        assert labels <= TARGET.union(*(declared[name] for name in names)), f"{where} uses an unknown label"
    else:
        assert {rule.get("record") for rule in _rules()} & set(re.findall(r"flotilla:[a-z0-9_:]+", query))


def test_dashboards_are_eight_with_stable_ids_units_and_descriptions() -> None:
    boards = _dashboards()

    assert len(boards) == 8
    for name, board in boards.items():
        assert f"{board['uid']}.json" == name
        variables = {variable["name"]: variable["type"] for variable in board["templating"]["list"]}
        assert list(variables)[:3] == ["datasource", "namespace", "release"]
        assert variables["datasource"] == "datasource"
        assert [link["url"] for link in board["links"]] == ["docs/runbook.md"]
        for panel in board["panels"]:
            assert panel["description"]
            assert panel["fieldConfig"]["defaults"]["unit"]
            assert panel["datasource"]["uid"] == "${datasource}"
            for target in panel["targets"]:
                series = re.findall(r"\b(?:flotilla|temporal)[_:][a-z0-9_:]+", target["expr"])
                own = target["expr"].count('namespace=~"$namespace", release=~"$release"')
                assert series
                assert own == len(series), f"{name}: {panel['title']} mixes fleets"
                assert ("histogram_quantile" in target["expr"]) == target.get("exemplar", False)


def test_what_needs_somebody_is_marked_in_its_panel() -> None:
    marked = {
        panel["title"]
        for board in _dashboards().values()
        for panel in board["panels"]
        if len(panel["fieldConfig"]["defaults"]["thresholds"]["steps"]) > 1
    }

    assert {
        "Requests that fail",
        "Dead letters",
        "Outbox, oldest row",
        "Parked sessions",
        "Free slots",
        "Overdue",
    } <= marked


def test_dashboards_are_what_their_source_says() -> None:
    done = subprocess.run(
        [sys.executable, MONITORING / "dashboards.py", "--check"], capture_output=True, text=True, check=False
    )

    assert done.returncode == 0, done.stderr


def test_every_alert_has_a_page_in_the_runbook_and_tests_of_both_kinds() -> None:
    alerts = {rule["alert"]: rule for rule in _rules() if "alert" in rule}
    headings = set(re.findall(r"(?m)^## (\w+)$", (ROOT / "docs/runbook.md").read_text(encoding="utf-8")))
    tests = yaml.safe_load((MONITORING / "rules.test.yaml").read_text(encoding="utf-8"))["tests"]

    assert set(alerts) == headings
    assert {test["name"] for test in tests} == {f"{alert} {kind}" for alert in alerts for kind in ("fires", "silent")}
    for name, rule in alerts.items():
        assert rule["annotations"]["runbook_url"] == f"docs/runbook.md#{name.lower()}"


def test_alerts_fire_on_their_fault_and_on_nothing_else() -> None:
    promtool = shutil.which("promtool")
    assert promtool, "promtool is not on PATH: apt-get install -y prometheus"
    done = subprocess.run(
        [promtool, "test", "rules", "rules.test.yaml"], cwd=MONITORING, capture_output=True, text=True, check=False
    )

    assert done.returncode == 0, done.stdout + done.stderr


def test_hastened_rules_are_the_same_but_for_their_times() -> None:
    """As a Prometheus beside a fleet runs them (`python -m tests.cluster.prometheus`)."""
    rules = "for: 5m\nexpr: sum(rate(a_5m[1h])) > 60 and rate(b[5m])\nfor: 10m\n"

    assert hastened(rules) == "for: 30s\nexpr: sum(rate(a_5m[360s])) > 60 and rate(b[30s])\nfor: 60s\n"
