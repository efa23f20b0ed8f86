"""Why Kafka can't be reached: aiokafka only tells its log what each broker's answer was."""

import ssl
from collections.abc import Mapping
from typing import Any

from aiokafka.conn import collect_hosts, create_conn
from aiokafka.errors import KafkaConnectionError, KafkaError
from aiokafka.protocol.metadata import MetadataRequest

from flotilla.config import KafkaSettings
from flotilla.kafka.client import kafka_client_arguments

_CONNECT_TIMEOUT_MS = 3_000


async def find_bootstrap_errors(settings: KafkaSettings) -> dict[str, Exception]:
    """Connect to each of the bootstrap servers; return what stops it, by address. Empty where one can be used."""
    found: dict[str, Exception] = {}
    for host, port, _ in collect_hosts(settings.kafka_bootstrap_servers, randomize=False):
        try:
            await _connect_to_broker(host, port, settings)
        except (KafkaError, OSError, TimeoutError) as error:
            found[f"{host}:{port}"] = error
        else:
            return {}
    return found


def join_server_errors(refused: Mapping[str, Exception], settings: KafkaSettings) -> str:
    """Return them as a line of text."""
    return "; ".join(f"{place}: {_describe_connection_error(error, settings)}" for place, error in refused.items())


async def _connect_to_broker(host: str, port: int, settings: KafkaSettings) -> None:
    arguments: dict[str, Any] = {**kafka_client_arguments(settings), "request_timeout_ms": _CONNECT_TIMEOUT_MS}
    del arguments["bootstrap_servers"]
    connection = await create_conn(host, port, **arguments)
    try:
        answer = await connection.send(MetadataRequest([]))
    finally:
        connection.close()
    # aiokafka takes a refused token for an accepted one; what such a broker answers then makes no sense.
    if not answer.brokers and settings.kafka_sasl_mechanism == "OAUTHBEARER":
        raise KafkaConnectionError("it refuses the token: check what FLOTILLA_KAFKA_TOKEN_COMMAND prints, and its end")


def _describe_connection_error(error: Exception, settings: KafkaSettings) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is not trusted: {error.verify_message} (check FLOTILLA_KAFKA_CA_FILE)"
    text = str(error) or type(error).__name__
    is_cut = "closed" in text or isinstance(error, ConnectionResetError)
    if isinstance(error, ssl.SSLError) or (is_cut and settings.kafka_security_protocol.endswith("SSL")):
        return (
            f"{text} (check FLOTILLA_KAFKA_CERT_FILE where it asks for a certificate, and that its port speaks "
            "FLOTILLA_KAFKA_SECURITY_PROTOCOL)"
        )
    return text
