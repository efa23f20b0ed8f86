"""A Kafka that knows users: SASL on a listener of its own, and only what `flotilla.kafka.acl` grants is allowed."""

from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

from pydantic import SecretStr

from flotilla.config import KafkaSettings
from flotilla_devstack.ports import LOOPBACK
from flotilla_devstack.servers.kafka import KafkaServer

PASSWORD = "users-of-a-test"
_PLAIN = "org.apache.kafka.common.security.plain.PlainLoginModule"


class KafkaWithUsers(KafkaServer):
    """On the port `users` a client logs in; the broker's own port is the administrator's."""

    port_names: ClassVar[tuple[str, ...]] = ("broker", "controller", "users")
    users: ClassVar[tuple[str, ...]] = ()

    def _write_settings(self, folder: Path, ports: Mapping[str, int]) -> Path:
        path = super()._write_settings(folder, dict(ports))
        if "users" in ports:
            path.write_text(path.read_text(encoding="utf-8") + self._with_users(ports), encoding="utf-8")
        return path

    def _with_users(self, ports: Mapping[str, int]) -> str:
        listeners = f"BROKER://{LOOPBACK}:{ports['broker']},USERS://{LOOPBACK}:{ports['users']}"
        logins = " ".join(f'user_{user}="{PASSWORD}"' for user in self.users)
        return "\n".join(
            (
                f"listeners={listeners},CONTROLLER://{LOOPBACK}:{ports['controller']}",
                f"advertised.listeners={listeners},CONTROLLER://{LOOPBACK}:{ports['controller']}",
                "listener.security.protocol.map=BROKER:PLAINTEXT,CONTROLLER:PLAINTEXT,USERS:SASL_PLAINTEXT",
                "sasl.enabled.mechanisms=PLAIN",
                f"listener.name.users.plain.sasl.jaas.config={_PLAIN} required {logins};",
                "authorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer",
                "super.users=User:ANONYMOUS",
                "",
            )
        )

    def settings_of(self, user: str, topics: KafkaSettings) -> KafkaSettings:
        """Settings of a service that logs in as `user`."""
        return topics.model_copy(
            update={
                "kafka_bootstrap_servers": f"{LOOPBACK}:{self.ports['users']}",
                "kafka_security_protocol": "SASL_PLAINTEXT",
                "kafka_sasl_mechanism": "PLAIN",
                "kafka_username": user,
                "kafka_password": SecretStr(PASSWORD),
            }
        )
