"""Writes values.schema.json of every chart from its values.yaml: `python charts/schema.py [--check]`.

A value's type is that of its default. Unknown keys are refused, but for those below an empty map, which is free, and
for renamed keys, which the render answers with their new name. `global` and `enabled` are always allowed, since a chart
may be part of the umbrella.
"""

import json
import re
import sys
from pathlib import Path
from typing import Any

import yaml

CHARTS = Path(__file__).parent
LIBRARY = CHARTS / "flotilla-service"
SERVICES = tuple(sorted(lock.parent.name for lock in CHARTS.glob("*/Chart.lock") if lock.parent.name != "flotilla"))
ALIASES = ("research-agent", "writer-agent", "tool-gateway")
FREE: dict[str, Any] = {}
AGENT_NAME = "^[a-z]([a-z0-9-]{0,38}[a-z0-9])?$"

PORT = {"type": "integer", "minimum": 1, "maximum": 65535}
COUNT = {"type": "integer", "minimum": 0}
NUMBER_OR_SHARE = {"type": ["integer", "string"], "pattern": "^[0-9]+%?$"}
QUANTITY = {"type": ["integer", "string"], "pattern": "^[0-9]+$"}
BUILD = {
    "type": "object",
    "additionalProperties": False,
    "required": ["id", "replicas"],
    "properties": {
        "id": {"type": "string", "pattern": "^[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?$"},
        "tag": {"type": "string"},
        "digest": {"type": "string", "pattern": "^(sha256:[0-9a-f]{64})?$"},
        "replicas": COUNT,
    },
}

# What a default can't say, by path; `*` is one step.
RULES: dict[str, dict[str, Any]] = {
    "image.digest": {"type": "string", "pattern": "^(sha256:[0-9a-f]{64})?$"},
    "image.tag": {"type": "string", "pattern": "^[A-Za-z0-9._-]*$"},
    "image.pullPolicy": {"enum": ["Always", "IfNotPresent", "Never"]},
    "install.pullPolicy": {"enum": ["Always", "IfNotPresent", "Never"]},
    "backup.pullPolicy": {"enum": ["Always", "IfNotPresent", "Never"]},
    "install.mode": {"enum": ["job", "hook"]},
    "logLevel": {"enum": ["debug", "info", "warning", "error"]},
    "replicas": COUNT,
    "maxSurge": NUMBER_OR_SHARE,
    "drainSeconds": {"type": "integer", "minimum": 1},
    "metrics.port": PORT,
    "service.port": PORT,
    "ipFamilyPolicy": {"enum": ["", "SingleStack", "PreferDualStack", "RequireDualStack"]},
    "ipFamilies": {"type": "array", "items": {"enum": ["IPv4", "IPv6"]}},
    "install.keepSeconds": COUNT,
    "openRuns.*": COUNT,
    "networkPolicy.*.*.ports": {"type": "array", "items": PORT},
    "networkPolicy.ports.*": {"type": "array", "items": PORT},
    "networkPolicy.dns.ports": {"type": "array", "items": PORT},
    "service.type": {"enum": ["ClusterIP", "NodePort", "LoadBalancer"]},
    # Kubernetes takes no longer port names.
    "extraPorts": {"type": "object", "additionalProperties": PORT, "propertyNames": {"maxLength": 15}},
    "settings": {"type": "object", "additionalProperties": {"type": ["string", "number", "boolean"]}},
    "podDisruptionBudget.maxUnavailable": NUMBER_OR_SHARE,
    "autoscaling.*.minReplicas": COUNT,
    "autoscaling.*.maxReplicas": {"type": "integer", "minimum": 1},
    "autoscaling.keda.tasksPerPod": QUANTITY,
    "autoscaling.keda.backlogPerPod": QUANTITY,
    "autoscaling.keda.lagPerPod": QUANTITY,
    "autoscaling.keda.pollingIntervalSeconds": {"type": "integer", "minimum": 1},
    "autoscaling.keda.cooldownSeconds": COUNT,
    "versioning.builds": {"type": "array", "items": BUILD},
    "approvalPolicy.builtin": {"enum": ["", "production", "local"]},
    "dependencies.kafka.securityProtocol": {"enum": ["", "PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"]},
    "dependencies.postgres.maxConnections": COUNT,
    "dependencies.redis.database": {"type": ["integer", "string"], "pattern": "^[0-9]*$"},
    "dependencies.kafka.topicPrefix": {"type": "string", "pattern": "^([a-zA-Z0-9._-]{1,200})?$"},
    "dependencies.kafka.durability": {"enum": ["", "relaxed", "required"]},
    "dependencies.kafka.saslMechanism": {"enum": ["", "PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512", "OAUTHBEARER"]},
}
FREE_PATHS = (
    "podSecurityContext", "securityContext", "startupProbe", "livenessProbe", "readinessProbe", "resources",
    "install.podSecurityContext", "install.securityContext", "install.resources",
)  # fmt: skip


def schema_of(value: Any, path: tuple[str, ...] = ()) -> dict[str, Any]:
    """The schema of a default."""
    if rule := _rule(path):
        return rule
    if isinstance(value, dict):
        if not value or ".".join(path) in FREE_PATHS or path[-1:] == ("resources",):
            return {"type": "object"}
        properties = {key: schema_of(each, (*path, key)) for key, each in value.items()}
        return {"type": "object", "additionalProperties": False, "properties": properties}
    for kind, name in ((bool, "boolean"), (int, "integer"), (list, "array"), (str, "string")):
        if isinstance(value, kind):
            return {"type": name}
    raise ValueError(f"{'.'.join(path)}: give it a default with a type")


def _rule(path: tuple[str, ...]) -> dict[str, Any] | None:
    steps = path[1:] if path[:1] == ("global",) else path
    for pattern, rule in RULES.items():
        wanted = pattern.split(".")
        if len(wanted) == len(steps) and all(one in ("*", other) for one, other in zip(wanted, steps, strict=True)):
            return rule
    return None


def merged(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    """Two trees of values; the second one wins."""
    result = dict(base)
    for key, value in over.items():
        both = isinstance(value, dict) and isinstance(result.get(key), dict)
        result[key] = merged(result[key], value) if both else value
    return result


def renamed_keys() -> list[str]:
    """Those that templates/_checks.tpl answers with a hint."""
    text = (LIBRARY / "templates/_checks.tpl").read_text(encoding="utf-8")
    block = re.search(r'define "flotilla-service.renamedKeys" -}}\n(.*?){{- end', text, re.DOTALL)
    if block is None:
        raise ValueError("_checks.tpl defines no flotilla-service.renamedKeys")
    return list(yaml.safe_load(block.group(1)))


def _values(chart: Path) -> dict[str, Any]:
    found = yaml.safe_load((chart / "values.yaml").read_text(encoding="utf-8"))
    return found if isinstance(found, dict) else {}


def _document(title: str, properties: dict[str, Any]) -> str:
    schema = {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "title": f"Values of chart {title}",
        "type": "object",
        "additionalProperties": False,
        "properties": dict(sorted(properties.items())),
    }
    return json.dumps(schema, indent=1) + "\n"


def service_schema(name: str) -> str:
    """Of one service's chart: the library's defaults and its own."""
    properties = schema_of(merged(_defaults(name), _values(CHARTS / name)))["properties"]
    around = {"global": {"type": "object"}, "enabled": {"type": "boolean"}, "flotilla-service": {"type": "object"}}
    return _document(name, {**properties, **around, **dict.fromkeys(renamed_keys(), FREE)})


def chart_schema(name: str) -> str:
    """Of the demo's chart, which depends on no other."""
    properties = schema_of(_values(CHARTS / name))["properties"]
    return _document(name, {**properties, "global": {"type": "object"}, "enabled": {"type": "boolean"}})


def fleet_schema() -> str:
    """Of the umbrella; each service's values are held by that service's own schema."""
    properties = schema_of(_values(CHARTS / "flotilla"))["properties"]
    charts = [name for name in SERVICES if name != "agent"]
    parts = {name: {"type": "object"} for name in (*charts, *ALIASES, "flotilla-demo", "flotilla-service")}
    return _document("flotilla", {**properties, **parts, **_own_agents(), "workers": _own_workers()})


def _own_agents() -> dict[str, Any]:
    """Of `agents` and `agentDefaults`: what charts/agent takes, but for the name, which is the key."""
    own = schema_of(_defaults("agent"))
    own["properties"]["enabled"] = {"type": "boolean"}
    by_name = {
        "type": "object",
        "propertyNames": {"pattern": AGENT_NAME},
        "additionalProperties": own,
    }
    return {"agents": by_name, "agentDefaults": own}


def _own_workers() -> dict[str, Any]:
    """Of `workers`: what charts/workflow-worker takes."""
    own = schema_of(merged(_defaults("workflow-worker"), _values(CHARTS / "workflow-worker")))
    own["properties"]["enabled"] = {"type": "boolean"}
    return {"type": "object", "propertyNames": {"pattern": AGENT_NAME}, "additionalProperties": own}


def _defaults(chart: str) -> dict[str, Any]:
    """What a service's chart takes from the library."""
    exports = _values(LIBRARY)["exports"]
    return merged(exports["defaults"], exports["agent"]) if chart == "agent" else dict(exports["defaults"])


def main() -> int:
    """Write the schemas, or with --check compare; return the exit code."""
    wanted = {CHARTS / name / "values.schema.json": service_schema(name) for name in SERVICES}
    wanted[CHARTS / "flotilla-demo/values.schema.json"] = chart_schema("flotilla-demo")
    wanted[CHARTS / "flotilla/values.schema.json"] = fleet_schema()
    old = [path for path, text in wanted.items() if not path.exists() or path.read_text(encoding="utf-8") != text]
    if "--check" in sys.argv[1:]:
        for path in old:
            sys.stderr.write(f"{path} is out of date: run charts/schema.py\n")
        return 1 if old else 0
    for path in old:
        path.write_text(wanted[path], encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
