"""Three Kafka nodes, each broker and controller, that clients reach through proxies."""

import asyncio
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import KafkaError

from flotilla_devstack.ports import LOOPBACK
from flotilla_devstack.servers.base import Home, Report
from flotilla_devstack.servers.kafka import CLUSTER_ID, KafkaServer
from flotilla_devstack.tools import run_program
from tests.ha.harness.proxy import Proxy
from tests.support.waiting import eventually

NODES = 3
_IN_SYNC = 2
_FORMAT_S = 120.0
_ANSWER_S = 15.0


class Broker(KafkaServer):
    """One node of the cluster. Brokers talk to each other directly; clients are sent to `advertised`, a proxy."""

    heap = "256m"
    port_names: ClassVar[tuple[str, ...]] = ("broker", "client", "controller")

    def __init__(self, home: Home, *, number: int, controllers: Mapping[int, int], advertised: int) -> None:
        """`controllers` are the ports of all controllers, by node."""
        super().__init__(home, name=f"kafka-{number}")
        self.number = number
        self._voters = ",".join(f"{node}@{LOOPBACK}:{port}" for node, port in controllers.items())
        self._advertised = advertised

    def server_properties(self, data: Path, ports: dict[str, int]) -> dict[str, str]:
        """See KafkaServer; with three replicas of everything, two of which must have an event."""
        alone = super().server_properties(data, ports)
        del alone["controller.quorum.bootstrap.servers"]
        replicated = {key: str(NODES) for key in alone if key.endswith("replication.factor")}
        in_sync = {key: str(_IN_SYNC) for key in alone if key.endswith("min.isr")}
        return {
            **alone,
            **replicated,
            **in_sync,
            "node.id": str(self.number),
            "controller.quorum.voters": self._voters,
            "listeners": f"{alone['listeners']},CLIENT://{LOOPBACK}:{ports['client']}",
            "advertised.listeners": f"{alone['advertised.listeners']},CLIENT://{LOOPBACK}:{self._advertised}",
            "listener.security.protocol.map": "BROKER:PLAINTEXT,CLIENT:PLAINTEXT,CONTROLLER:PLAINTEXT",
            # Shorter, and three JVMs on two busy cores take each other for dead.
            "broker.session.timeout.ms": "6000",
            "broker.heartbeat.interval.ms": "1500",
        }

    def _format(self, report: Report, cancelled: threading.Event | None) -> None:
        report("formatting storage")
        settings = self._write_settings(self.folder, self.ports)
        tool = ("kafka.tools.StorageTool", "format", "-t", CLUSTER_ID, "-c", str(settings))
        argv = (*self._jvm("-Xmx128m"), *tool)
        run_program(argv, log=self.log, cwd=self.folder, timeout_s=_FORMAT_S, cancelled=cancelled)


class Brokers:
    """The cluster, and the proxy of each broker."""

    def __init__(self, nodes: Sequence[Broker], proxies: Sequence[Proxy]) -> None:
        self.nodes = tuple(nodes)
        self.proxies = tuple(proxies)

    @property
    def bootstrap(self) -> str:
        """For the services: all brokers, by their proxies."""
        return ",".join(f"{LOOPBACK}:{proxy.port}" for proxy in self.proxies)

    @property
    def direct(self) -> str:
        """For the judge: the brokers themselves. They send clients to the proxies all the same."""
        return ",".join(f"{LOOPBACK}:{node.ports['client']}" for node in self.nodes)

    async def leader_of(self, topic: str, partition: int) -> Broker:
        """The broker that leads a partition now."""

        async def leader() -> int | None:
            found = [one["leader"] for one in await self._partitions(topic) if one["partition"] == partition]
            return found[0] if found and found[0] > 0 else None

        number = await eventually(leader, timeout_s=60, every_s=0.5)
        return next(node for node in self.nodes if node.number == number)

    def proxy_of(self, broker: Broker) -> Proxy:
        """What is between the services and this broker."""
        return self.proxies[self.nodes.index(broker)]

    async def whole(self, topic: str) -> None:
        """Wait until all replicas of every partition are in sync."""

        async def in_sync() -> bool:
            partitions = await self._partitions(topic)
            return bool(partitions) and all(len(one["isr"]) == NODES for one in partitions)

        await eventually(in_sync, timeout_s=120, every_s=0.5)

    async def _partitions(self, topic: str) -> list[dict[str, Any]]:
        """What the cluster knows of a topic's partitions; nothing while no broker answers."""
        admin = AIOKafkaAdminClient(bootstrap_servers=self.direct, request_timeout_ms=5_000)
        try:
            async with asyncio.timeout(_ANSWER_S):
                await admin.start()
                (found,) = await admin.describe_topics([topic])
        except (KafkaError, OSError):
            return []
        finally:
            await admin.close()
        return list(found["partitions"])
