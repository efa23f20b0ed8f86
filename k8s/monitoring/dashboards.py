"""Writes dashboards/*.json for Grafana: `python k8s/monitoring/dashboards.py [--check]`."""

import json
import re
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent / "dashboards"
COLUMNS, WIDTH, HEIGHT = 3, 8, 8
SOURCE = {"type": "prometheus", "uid": "${datasource}"}


@dataclass(frozen=True)
class Panel:
    """One graph: what it shows, its unit, and queries with their legends."""

    title: str
    about: str
    unit: str
    queries: dict[str, str] = field(default_factory=dict)
    alarm: float | None = None
    """Red from here on: what the alert of this figure goes by."""
    alarm_below: bool = False


def quantiles(metric: str, by: str = "") -> dict[str, str]:
    """p50 and p99 of a histogram."""
    group, legend = (f"le, {by}", f" {{{{{by}}}}}") if by else ("le", "")
    buckets = f"sum by ({group}) (rate({metric}_bucket[$__rate_interval]))"
    return {f"p{percent}{legend}": f"histogram_quantile(0.{percent}, {buckets})" for percent in (50, 99)}


def rate(metric: str, by: str = "") -> dict[str, str]:
    """Events per second of a counter."""
    group = f" by ({by})" if by else ""
    legend = " ".join(f"{{{{{label.strip()}}}}}" for label in by.split(",")) if by else "all"
    return {legend: f"sum{group} (rate({metric}[$__rate_interval]))"}


def level(metric: str, by: str = "", how: str = "max") -> dict[str, str]:
    """A gauge; each replica shows the same, so `max` by default."""
    group = f" by ({by})" if by else ""
    legend = " ".join(f"{{{{{label.strip()}}}}}" for label in by.split(",")) if by else "all"
    return {legend: f"{how}{group} ({metric})"}


DASHBOARDS: dict[str, tuple[str, list[Panel]]] = {
    "flotilla-fleet": (
        "Flotilla / Fleet overview",
        [
            Panel("Runs finished", "By how they ended.", "ops", rate("flotilla_runs_total", "status")),
            Panel("Run duration", "From request to end.", "s", quantiles("flotilla_run_duration_seconds")),
            Panel(
                "Requests", "At the gateway.", "reqps", rate("flotilla_http_request_duration_seconds_count", "status")
            ),
            Panel(
                "Request duration", "At the gateway.", "s", quantiles("flotilla_http_request_duration_seconds", "route")
            ),
            Panel(
                "Requests that fail",
                "Share of 5xx.",
                "percentunit",
                {"5 min": "flotilla:http_error_ratio:5m"},
                alarm=0.0144,
            ),
            Panel("Dead letters", "Wait for a person.", "short", level("flotilla_dead_letters", "stream"), alarm=1),
            Panel(
                "Outbox, oldest row",
                "Committed, not yet in Kafka.",
                "s",
                level("flotilla_outbox_oldest_unpublished_seconds"),
                alarm=60,
            ),
            Panel(
                "Audit lag",
                "In Kafka, not yet projected.",
                "short",
                level("flotilla_audit_lag_events", how="sum"),
                alarm=100000,
            ),
            Panel("Approvals pending", "Wait for a person.", "short", level("flotilla_approvals_pending")),
        ],
    ),
    "flotilla-streams": (
        "Flotilla / Agents and streams",
        [
            Panel(
                "Lag", "Not yet delivered to the group.", "short", level("flotilla_stream_lag_entries", "stream, group")
            ),
            Panel(
                "Pending",
                "Delivered, not acknowledged.",
                "short",
                level("flotilla_stream_pending_entries", "stream, group"),
            ),
            Panel(
                "Entries",
                "Taken off a stream, by outcome.",
                "ops",
                rate("flotilla_bus_entries_total", "stream, outcome"),
            ),
            Panel(
                "Delivery delay",
                "From XADD to the handler.",
                "s",
                quantiles("flotilla_bus_delivery_delay_seconds", "stream"),
            ),
            Panel("Handler time", "Work on one entry.", "s", quantiles("flotilla_bus_handler_seconds", "stream")),
            Panel(
                "Reclaimed",
                "Taken over from silent consumers.",
                "ops",
                rate("flotilla_bus_reclaimed_total", "stream, group"),
            ),
            Panel(
                "Lost",
                "Trimmed before they were handled.",
                "ops",
                rate("flotilla_bus_lost_entries_total", "stream, group"),
                alarm=0.001,
            ),
            Panel("Dead letters", "Wait for a person.", "short", level("flotilla_dead_letters", "stream"), alarm=1),
        ],
    ),
    "flotilla-outbox-audit": (
        "Flotilla / Outbox and audit",
        [
            Panel("Outbox backlog", "Rows not yet in Kafka (capped).", "short", level("flotilla_outbox_backlog_rows")),
            Panel("Oldest row", "Age.", "s", level("flotilla_outbox_oldest_unpublished_seconds"), alarm=60),
            Panel("Published", "Acknowledged by Kafka.", "ops", rate("flotilla_outbox_published_total")),
            Panel(
                "Publish delay",
                "From commit to acknowledgement.",
                "s",
                quantiles("flotilla_outbox_publish_delay_seconds"),
            ),
            Panel("Parked by Kafka", "Sessions.", "short", level("flotilla_outbox_parked_keys"), alarm=1),
            Panel("Audit lag", "By partition.", "short", level("flotilla_audit_lag_events", "partition"), alarm=100000),
            Panel("Projected", "Events.", "ops", rate("flotilla_audit_projected_total")),
            Panel(
                "Irregular",
                "Gaps, duplicates and conflicts met.",
                "ops",
                {
                    name: f"sum (rate(flotilla_audit_{name}_total[$__rate_interval]))"
                    for name in ("gaps", "duplicates", "conflicts")
                },
            ),
            Panel(
                "Parked sessions", "By a gap or a conflict.", "short", level("flotilla_audit_parked_sessions"), alarm=1
            ),
            Panel(
                "Checkpoint age",
                "By partition.",
                "s",
                level("flotilla_audit_checkpoint_age_seconds", "partition"),
                alarm=300,
            ),
        ],
    ),
    "flotilla-workflows": (
        "Flotilla / Workflows and worker slots",
        [
            Panel(
                "Free slots",
                "By kind of task.",
                "short",
                level("temporal_worker_task_slots_available", "worker_type", "min"),
                alarm=1,
                alarm_below=True,
            ),
            Panel(
                "Used slots",
                "By kind of task.",
                "short",
                level("temporal_worker_task_slots_used", "worker_type", "sum"),
            ),
            Panel("Runs finished", "By how they ended.", "ops", rate("flotilla_runs_total", "status")),
            Panel("Run duration", "From request to end.", "s", quantiles("flotilla_run_duration_seconds")),
            Panel(
                "Cached workflows", "In the workers' memory.", "short", level("temporal_sticky_cache_size", how="sum")
            ),
        ],
    ),
    "flotilla-approvals": (
        "Flotilla / Approvals and sagas",
        [
            Panel("Pending", "Wait for a person (capped).", "short", level("flotilla_approvals_pending")),
            Panel(
                "Oldest", "Age of the oldest pending approval.", "s", level("flotilla_approval_oldest_pending_seconds")
            ),
            Panel("Overdue", "Past their reminder.", "short", level("flotilla_approvals_overdue"), alarm=1),
            Panel("Decisions", "Made.", "ops", rate("flotilla_approval_decisions_total", "decision")),
            Panel("Compensations", "By outcome.", "ops", rate("flotilla_saga_compensations_total", "outcome")),
            Panel(
                "Parked",
                "Compensations that wait for an operator.",
                "short",
                level("flotilla_saga_parked_compensations"),
                alarm=1,
            ),
        ],
    ),
    "flotilla-session-keys": (
        "Flotilla / Keys of sessions for agents",
        [
            Panel("Requests", "Of agents, by outcome.", "ops", rate("flotilla_session_keys_seconds_count", "outcome")),
            Panel("Duration", "Until the worker's answer.", "s", quantiles("flotilla_session_keys_seconds", "outcome")),
        ],
    ),
    "flotilla-tools": (
        "Flotilla / Tools of MCP servers",
        [
            Panel(
                "Connected", "1: a tool gateway reaches the server.", "short", level("flotilla_mcp_connected", "server")
            ),
            Panel(
                "Changed",
                "Allowed tools that their server describes otherwise; calls are refused.",
                "short",
                level("flotilla_mcp_tools_changed", "server"),
                alarm=1,
            ),
            Panel(
                "Calls", "Made, by how they ended.", "ops", rate("flotilla_mcp_call_seconds_count", "server, outcome")
            ),
            Panel("Call duration", "Until the server's answer.", "s", quantiles("flotilla_mcp_call_seconds", "server")),
            Panel("Refused", "Calls that were not made.", "ops", rate("flotilla_mcp_refused_total", "server, reason")),
        ],
    ),
    "flotilla-llm": (
        "Flotilla / LLM cost and latency",
        [
            Panel(
                "Tokens", "Per second, by direction.", "short", rate("flotilla_llm_tokens_total", "model, direction")
            ),
            Panel(
                "Tokens in 24 h",
                "What is paid for.",
                "short",
                {
                    "{{model}} {{direction}}": "sum by (model, direction) (increase(flotilla_llm_tokens_total[24h]))",
                },
            ),
            Panel(
                "Cost in 24 h",
                "At the prices above.",
                "currencyUSD",
                {
                    f"{{{{model}}}} {direction}": "sum by (model) "
                    f'(increase(flotilla_llm_tokens_total{{direction="{direction}"}}[24h])) * ${direction}_price / 1e6'
                    for direction in ("input", "output")
                },
            ),
            Panel(
                "Spend in 24 h",
                "At the price table of the agents (FLOTILLA_LLM_PRICES), in its currency.",
                "short",
                {
                    "{{model}} {{agent}} {{currency}}": "sum by (model, agent, currency) "
                    "(increase(flotilla_llm_spend_total[24h]))"
                },
            ),
            Panel(
                "Calls refused by a budget",
                "Per second, by the budget that did not suffice; some wait and go on.",
                "ops",
                rate("flotilla_llm_budget_refusals_total", "budget"),
            ),
            Panel(
                "Fallbacks",
                "Calls per second that the next model of a chain got, by the model that was passed over.",
                "ops",
                rate("flotilla_llm_fallbacks_total", "model, reason"),
            ),
            Panel("Calls", "By model.", "ops", rate("flotilla_llm_call_duration_seconds_count", "model")),
            Panel("Call duration", "By model.", "s", quantiles("flotilla_llm_call_duration_seconds", "model")),
            Panel(
                "Stored answers used",
                "Calls that were not paid for again.",
                "ops",
                rate("flotilla_llm_cache_hits_total"),
            ),
        ],
    ),
}


_SERIES = re.compile(r"\b((?:flotilla|temporal)[_:][a-z0-9_:]+)(?:{([^}]*)})?")
_OWN = 'namespace=~"$namespace", release=~"$release"'


def of_one_fleet(query: str) -> str:
    """The query about the fleet that the variables name."""
    return _SERIES.sub(lambda found: f"{found[1]}{{{', '.join(filter(None, (found[2], _OWN)))}}}", query)


def _variable(name: str, query: str) -> dict[str, Any]:
    return {
        "name": name,
        "label": name.capitalize(),
        "type": "query",
        "datasource": SOURCE,
        "query": {"query": query, "refId": name},
        "refresh": 2,
        "includeAll": True,
        "allValue": ".*",
        "multi": True,
        "current": {"text": "All", "value": "$__all"},
    }


_VARIABLES: list[dict[str, Any]] = [
    {"name": "datasource", "label": "Data source", "type": "datasource", "query": "prometheus"},
    _variable("namespace", "label_values(flotilla_outbox_backlog_rows, namespace)"),
    _variable("release", 'label_values(flotilla_outbox_backlog_rows{namespace=~"$namespace"}, release)'),
]
# What a million tokens cost, for the reader to set: no price is known here.
_PRICES = [
    {"name": f"{direction}_price", "label": f"{direction.capitalize()}, $ per million", "type": "textbox", "query": "0"}
    for direction in ("input", "output")
]


def dashboard(uid: str) -> str:
    """One dashboard, as Grafana imports it."""
    title, panels = DASHBOARDS[uid]
    document = {
        "uid": uid,
        "title": title,
        "tags": ["flotilla"],
        "editable": False,
        "schemaVersion": 39,
        "refresh": "30s",
        "time": {"from": "now-1h", "to": "now"},
        "templating": {"list": [*_VARIABLES, *(_PRICES if uid == "flotilla-llm" else [])]},
        "links": [{"title": "Runbook", "type": "link", "url": "docs/runbook.md", "targetBlank": True}],
        "panels": [_panel(number, panel) for number, panel in enumerate(panels)],
    }
    return json.dumps(document, indent=1) + "\n"


def _panel(number: int, panel: Panel) -> dict[str, Any]:
    return {
        "id": number + 1,
        "type": "timeseries",
        "title": panel.title,
        "description": panel.about,
        "datasource": SOURCE,
        "gridPos": {
            "x": number % COLUMNS * WIDTH,
            "y": number // COLUMNS * HEIGHT,
            "w": WIDTH,
            "h": HEIGHT,
        },
        "fieldConfig": {"defaults": {"unit": panel.unit, "min": 0, **_marks(panel)}, "overrides": []},
        "targets": [_target(place, *each) for place, each in enumerate(panel.queries.items())],
    }


def _target(place: int, legend: str, query: str) -> dict[str, Any]:
    target = {
        "refId": chr(ord("A") + place),
        "datasource": SOURCE,
        "expr": of_one_fleet(query),
        "legendFormat": legend,
    }
    return target | ({"exemplar": True} if "histogram_quantile" in query else {})


def _marks(panel: Panel) -> dict[str, Any]:
    """Thresholds, drawn as a line where there is one."""
    usual, alarm = ("red", "green") if panel.alarm_below else ("green", "red")
    steps: list[dict[str, Any]] = [{"color": usual, "value": None}]
    if panel.alarm is None:
        return {"thresholds": {"mode": "absolute", "steps": steps}}
    steps.append({"color": alarm, "value": panel.alarm})
    return {
        "thresholds": {"mode": "absolute", "steps": steps},
        "custom": {"thresholdsStyle": {"mode": "line"}},
    }


def main() -> int:
    """Writes the dashboards, or with --check compares; returns the exit code."""
    FOLDER.mkdir(exist_ok=True)
    old = []
    for uid in DASHBOARDS:
        path = FOLDER / f"{uid}.json"
        if not path.exists() or path.read_text(encoding="utf-8") != dashboard(uid):
            old.append(path)
    if "--check" in sys.argv[1:]:
        for path in old:
            sys.stderr.write(f"{path} is out of date: run k8s/monitoring/dashboards.py\n")
        return 1 if old else 0
    for path in old:
        path.write_text(dashboard(path.stem), encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
