"""Writes dashboards/*.json for Grafana: `python k8s/monitoring/dashboards.py [--check]`."""

import json
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
            Panel("Requests that fail", "Share of 5xx.", "percentunit", {"5 min": "flotilla:http_error_ratio:5m"}),
            Panel("Dead letters", "Wait for a person.", "short", level("flotilla_dead_letters", "stream")),
            Panel(
                "Outbox, oldest row",
                "Committed, not yet in Kafka.",
                "s",
                level("flotilla_outbox_oldest_unpublished_seconds"),
            ),
            Panel("Audit lag", "In Kafka, not yet projected.", "short", level("flotilla_audit_lag_events", how="sum")),
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
            ),
            Panel("Dead letters", "Wait for a person.", "short", level("flotilla_dead_letters", "stream")),
        ],
    ),
    "flotilla-outbox-audit": (
        "Flotilla / Outbox and audit",
        [
            Panel("Outbox backlog", "Rows not yet in Kafka (capped).", "short", level("flotilla_outbox_backlog_rows")),
            Panel("Oldest row", "Age.", "s", level("flotilla_outbox_oldest_unpublished_seconds")),
            Panel("Published", "Acknowledged by Kafka.", "ops", rate("flotilla_outbox_published_total")),
            Panel(
                "Publish delay",
                "From commit to acknowledgement.",
                "s",
                quantiles("flotilla_outbox_publish_delay_seconds"),
            ),
            Panel("Parked by Kafka", "Sessions.", "short", level("flotilla_outbox_parked_keys")),
            Panel("Audit lag", "By partition.", "short", level("flotilla_audit_lag_events", "partition")),
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
            Panel("Parked sessions", "By a gap or a conflict.", "short", level("flotilla_audit_parked_sessions")),
            Panel("Checkpoint age", "By partition.", "s", level("flotilla_audit_checkpoint_age_seconds", "partition")),
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
            Panel("Overdue", "Past their reminder.", "short", level("flotilla_approvals_overdue")),
            Panel("Decisions", "Made.", "ops", rate("flotilla_approval_decisions_total", "decision")),
            Panel("Compensations", "By outcome.", "ops", rate("flotilla_saga_compensations_total", "outcome")),
            Panel(
                "Parked",
                "Compensations that wait for an operator.",
                "short",
                level("flotilla_saga_parked_compensations"),
            ),
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
        "templating": {
            "list": [{"name": "datasource", "label": "Data source", "type": "datasource", "query": "prometheus"}]
        },
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
        "fieldConfig": {"defaults": {"unit": panel.unit, "min": 0}, "overrides": []},
        "targets": [
            {"refId": chr(ord("A") + place), "datasource": SOURCE, "expr": query, "legendFormat": legend}
            for place, (legend, query) in enumerate(panel.queries.items())
        ],
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
