"""A Kafka with a listener for clients' certificates, and one for tokens."""

from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

from flotilla.config import KafkaSettings
from flotilla_devstack.ports import LOOPBACK
from flotilla_devstack.servers.base import Home
from flotilla_devstack.servers.kafka import KafkaServer
from tests.support.certificates import Certificates

_OAUTH = "org.apache.kafka.common.security.oauthbearer"
REAUTHENTICATION_MS = 4_000
"""After so long, or when its token ends, a connection has to show another token."""


class KafkaWithLogins(KafkaServer):
    """Tokens are unsigned JSON Web Tokens, whose claims it checks. The broker's own port is the administrator's."""

    port_names: ClassVar[tuple[str, ...]] = ("broker", "controller", "certificates", "tokens")

    def __init__(self, home: Home, certificates: Certificates) -> None:
        super().__init__(home)
        self._certificates = certificates

    def _write_settings(self, folder: Path, ports: Mapping[str, int]) -> Path:
        path = super()._write_settings(folder, dict(ports))
        if "tokens" in ports:
            lines = "".join(f"{name}={value}\n" for name, value in self._with_logins(ports).items())
            path.write_text(path.read_text(encoding="utf-8") + lines, encoding="utf-8")
        return path

    def _with_logins(self, ports: Mapping[str, int]) -> Mapping[str, str]:
        names = {"BROKER": "broker", "CERTIFICATES": "certificates", "TOKENS": "tokens", "CONTROLLER": "controller"}
        listeners = ",".join(f"{name}://{LOOPBACK}:{ports[port]}" for name, port in names.items())
        keystore = self.folder / "keystore.pem"
        keystore.write_bytes(self._certificates.server_key.read_bytes() + self._certificates.server.read_bytes())
        tokens = "listener.name.tokens"
        return {
            "listeners": listeners,
            "advertised.listeners": listeners,
            "listener.security.protocol.map": "BROKER:PLAINTEXT,CONTROLLER:PLAINTEXT,CERTIFICATES:SSL,TOKENS:SASL_SSL",
            "ssl.keystore.type": "PEM",
            "ssl.keystore.location": str(keystore),
            "ssl.truststore.type": "PEM",
            "ssl.truststore.location": str(self._certificates.ca),
            "listener.name.certificates.ssl.client.auth": "required",
            f"{tokens}.sasl.enabled.mechanisms": "OAUTHBEARER",
            f"{tokens}.oauthbearer.sasl.jaas.config": f"{_OAUTH}.OAuthBearerLoginModule required "
            'unsecuredLoginStringClaim_sub="broker";',
            f"{tokens}.oauthbearer.sasl.server.callback.handler.class": f"{_OAUTH}.internals.unsecured."
            "OAuthBearerUnsecuredValidatorCallbackHandler",
            f"{tokens}.oauthbearer.connections.max.reauth.ms": str(REAUTHENTICATION_MS),
        }

    def by_certificate(self, topics: KafkaSettings) -> KafkaSettings:
        """Settings of a service that shows a certificate."""
        return topics.model_copy(
            update={
                "kafka_bootstrap_servers": f"{LOOPBACK}:{self.ports['certificates']}",
                "kafka_security_protocol": "SSL",
                "kafka_ca_file": str(self._certificates.ca),
                "kafka_cert_file": self._certificates.client,
                "kafka_key_file": self._certificates.client_key,
            }
        )

    def by_token(self, topics: KafkaSettings, command: str) -> KafkaSettings:
        """Settings of a service that shows what `command` prints."""
        return topics.model_copy(
            update={
                "kafka_bootstrap_servers": f"{LOOPBACK}:{self.ports['tokens']}",
                "kafka_security_protocol": "SASL_SSL",
                "kafka_sasl_mechanism": "OAUTHBEARER",
                "kafka_ca_file": str(self._certificates.ca),
                "kafka_token_command": command,
            }
        )
