"""List code that nothing in shared/ and services/ uses; code that only a test uses counts as unused.

    python scripts/unused_code.py

Fields of classes are left out: they are contracts (events, settings, API answers). What a framework or an outsider
calls is listed below, with who calls it.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

from vulture.core import Item, Vulture

ROOT = Path(__file__).parents[1]
SOURCES = ("shared/flotilla/src", "shared/cli/src", "shared/devstack/src", "services/*/*/")
TESTED = "shared/devstack"
"""Made for tests: here, what a test uses is used."""
CALLED_BY_FRAMEWORKS = [
    "@router.*",
    "@agent.task",
    "@planner.task",
    "@verb",
    "@app.callback",
    "@activity.defn",
    "@workflow.*",
    "@decide.validator",
    "@field_validator",
    "@model_validator",
]
ALLOWED = {
    "handle_async_request": "httpx2, for each request",
    "on_list_tasks": "the A2A SDK, for each request",
    "on_create_task_push_notification_config": "the A2A SDK, for each request",
    "on_get_task_push_notification_config": "the A2A SDK, for each request",
    "on_list_task_push_notification_configs": "the A2A SDK, for each request",
    "on_delete_task_push_notification_config": "the A2A SDK, for each request",
    "on_get_extended_agent_card": "the A2A SDK, for each request",
    "on_partitions_revoked": "aiokafka's rebalance listener",
    "on_partitions_assigned": "aiokafka's rebalance listener",
    "get_credentials_async": "redis-py, at each connect",
    "intercept_activity": "Temporal's worker interceptor",
    "with_context": "Temporal's data converter",
    "intra_op_num_threads": "onnxruntime's session options",
    "should_exit": "uvicorn's server",
    "ConsumerRecord": "used in quoted annotations",
    "PoolConnectionProxy": "used in quoted annotations",
    "delegation": "collected by its activities' decorators",
    "webhooks": "collected by its activities' decorators",
    "workflow_runs": "collected by its activities' decorators",
    "should_continue": "for workflows outside this repository",
    "ask_person": "for workflows outside this repository",
    "start_child": "for workflows outside this repository",
    "saga": "for workflows outside this repository",
    "try_workflow": "the kit for testing workflows: for packages outside this repository",
    "_closer": "keeps the socket open as long as its holder",
    "_expiring": "read by asyncpg's own subclass hooks",
    "openai_http_client": "the agent SDK: for agents outside this repository",
    "model_endpoint": "the agent SDK: for agents outside this repository",
    "in_transaction": "the agent SDK: for agents outside this repository",
    "open_tool_calls": "the event store's API: for services outside this repository",
    "running_tasks": "how tests observe the supervisor",
    "is_leader": "how tests observe the leader",
    "replay": "the event store's API: for services outside this repository",
    "forget": "tests, which make a process look keys up again",
    "create_key_pair": "keys for tests and benchmarks",
    "signer_with_new_key": "keys for tests",
    "strimzi_users": "tests, which hold the manifests of k8s/ against it",
    "__call__": "a protocol",
    "__getattr__": "a module, PEP 562",
}


def unused(patterns: Sequence[str]) -> list[Item]:
    """Return what nothing below the folders of `patterns` uses."""
    vulture = Vulture(ignore_decorators=CALLED_BY_FRAMEWORKS)
    folders = [path for pattern in patterns for path in ROOT.glob(pattern) if "console" not in path.name]
    vulture.scavenge(folders, exclude=["*/.venv/*"])
    return [item for item in vulture.get_unused_code(min_confidence=60) if not is_allowed(item)]


def is_allowed(item: Item) -> bool:
    """Return whether `item` is a field of a class, or on the list above."""
    line = Path(item.filename).read_text(encoding="utf-8").splitlines()[item.first_lineno - 1]
    return item.name in ALLOWED or (item.typ == "variable" and line.startswith(" "))


def main() -> int:
    """Print what is unused; return 1 if anything is."""
    found = [item for item in unused(SOURCES) if TESTED not in str(item.filename)]
    found += [item for item in unused([*SOURCES, "tests", "benchmarks"]) if TESTED in str(item.filename)]
    for item in found:
        where = f"{Path(item.filename).relative_to(ROOT)}:{item.first_lineno}"
        sys.stdout.write(f"{where}: unused {item.typ} {item.name!r}: remove it, or name its caller in ALLOWED\n")
    return 1 if found else 0


if __name__ == "__main__":
    raise SystemExit(main())
