"""How every part of the fleet reaches Kafka: one translation from settings to aiokafka's arguments."""

import ssl
from typing import TypedDict

from flotilla.config import KafkaSettings
from flotilla.contracts.errors import ConfigurationError

OPEN_TIMEOUT_S = 10.0
"""How long a client may take to connect."""


class ClientArguments(TypedDict, total=False):
    """What AIOKafkaProducer, AIOKafkaConsumer and AIOKafkaAdminClient all take."""

    bootstrap_servers: str
    security_protocol: str
    ssl_context: ssl.SSLContext
    sasl_mechanism: str
    sasl_plain_username: str
    sasl_plain_password: str


def client_arguments(settings: KafkaSettings) -> ClientArguments:
    """Where and how to connect, TLS and SASL included: `AIOKafkaProducer(**client_arguments(settings), ...)`.

    Raises:
        ConfigurationError: SASL without a name or password, or an unreadable CA file.
    """
    arguments = ClientArguments(
        bootstrap_servers=settings.kafka_bootstrap_servers, security_protocol=settings.kafka_security_protocol
    )
    if settings.kafka_security_protocol.endswith("SSL"):
        arguments["ssl_context"] = _ssl_context(settings.kafka_ca_file)
    if settings.kafka_security_protocol.startswith("SASL"):
        if settings.kafka_username is None or settings.kafka_password is None:
            raise ConfigurationError(
                f"FLOTILLA_KAFKA_SECURITY_PROTOCOL={settings.kafka_security_protocol} needs "
                "FLOTILLA_KAFKA_USERNAME and FLOTILLA_KAFKA_PASSWORD: set both"
            )
        arguments["sasl_mechanism"] = settings.kafka_sasl_mechanism
        arguments["sasl_plain_username"] = settings.kafka_username
        arguments["sasl_plain_password"] = settings.kafka_password.get_secret_value()
    return arguments


def _ssl_context(ca_file: str | None) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cafile=ca_file)
    except OSError as error:
        raise ConfigurationError(f"FLOTILLA_KAFKA_CA_FILE={ca_file} can't be read as certificates: {error}") from error
