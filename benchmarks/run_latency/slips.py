"""A worker whose workflow delegates one routing slip of any length; runs on the libraries of an earlier commit, too."""

import asyncio
import importlib
import inspect
import os
from typing import Any

from temporalio import workflow
from temporalio.client import Client

with workflow.unsafe.imports_passed_through():
    from flotilla.contracts.tasks import AgentTask

    try:
        from flotilla.workflows.delegation import delegate
    except ImportError:  # before the SDK of workflows
        from workflow_worker.workflows.delegation import delegate

QUEUE = "run-latency-slips"
TENANT = "default"
SESSION = "bench"


@workflow.defn(name="DelegateSlip")
class DelegateSlip:
    """A step that so many agents do, one after the other."""

    @workflow.run
    async def run(self, hops: int) -> str:
        task = AgentTask(
            task_id=workflow.info().workflow_id,
            agent="echo",
            slip=["echo"] * (hops - 1),
            tenant_id=TENANT,
            session_id=SESSION,
            input={"text": SESSION},
        )
        return (await delegate(task)).task_id


def _find_class(module: str, *names: str) -> type:
    """Return the class of `module` that has one of these names: its own, or one of an earlier commit."""
    found = importlib.import_module(module)
    return next(vars(found)[name] for name in names if name in vars(found))


def _made(kind: type, things: dict[str, object]) -> object:
    """`kind` of whatever it asks for among `things`, by the names of its parameters."""
    return kind(**{name: things[name] for name in inspect.signature(kind).parameters})


async def main() -> None:
    """Works on the queue until killed. The bridge runs in the workflow worker beside it."""
    from flotilla.bus import AgentEventBus, connect_redis
    from flotilla.config import load_settings
    from flotilla.postgres import open_pool
    from workflow_worker.settings import Settings
    from workflow_worker.temporal import make_worker

    activities = _find_class("workflow_worker.activities.delegation", "DelegationActivities", "Delegation")
    settings = load_settings(Settings).model_copy(update={"task_queue": QUEUE})
    encryption = _keyring(settings)
    async with (
        open_pool(settings.postgres_dsn.get_secret_value(), application="bench", max_size=20, **encryption) as pool,
        connect_redis(settings.redis_url.get_secret_value()) as redis,
    ):
        client = await Client.connect(settings.temporal_address, **_codec(pool, **encryption))
        things: dict[str, object] = {"pool": pool, "redis": redis, "bus": AgentEventBus(redis)}
        if "signer" in inspect.signature(activities).parameters:  # since tickets
            things |= _since_tickets(settings, things)
        delegation = _made(activities, things)
        worker = make_worker(
            client,
            settings,
            f"slips-{os.getpid()}",
            workflows=[DelegateSlip],
            activities=[delegation.delegate, delegation.tell_agent_cancelled],  # type: ignore[attr-defined]
        )
        await worker.run()


def _keyring(settings: object) -> dict[str, Any]:
    """The worker's keys, as `open_pool` takes them; nothing before encryption, and where it is off."""
    try:
        open_keyring = importlib.import_module("flotilla.encryption").open_keyring
    except ImportError:
        return {}
    keyring = open_keyring(settings)
    return {} if keyring is None else {"keyring": keyring}


def _codec(pool: object, keyring: object | None = None) -> dict[str, Any]:
    """How the worker's client encrypts what Temporal keeps."""
    if keyring is None:
        return {}
    from flotilla.postgres.workflow_ciphers import WorkflowCiphers
    from flotilla.temporal import encrypting_converter

    return {"data_converter": encrypting_converter(WorkflowCiphers(pool, keyring))}  # type: ignore[arg-type]


def _since_tickets(settings: object, things: dict[str, object]) -> dict[str, object]:
    from flotilla.bus.known_agents import KnownAgents
    from flotilla.config.signing import load_signer

    delegates = _find_class("workflow_worker.delegates", "KnownDelegates", "Delegates")
    publisher = _find_class("workflow_worker.delegations", "HopPublisher", "TaskPublisher")
    known = KnownAgents(things["pool"], things["redis"], settings.agents)  # type: ignore[arg-type, attr-defined]
    more: dict[str, object] = {"delegates": delegates(things["pool"]), "agents": known}
    more |= {"signer": load_signer(settings.ticket_key_file)}  # type: ignore[attr-defined]
    try:
        more["recent"] = _find_class("workflow_worker.recent_hops", "RecentHopCache", "RecentHops")()
    except ImportError:
        more["recent"] = None
    return more | {"publisher": _made(publisher, {**things, **more})}


if __name__ == "__main__":
    asyncio.run(main())
