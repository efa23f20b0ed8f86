"""Why Kafka can't be reached: aiokafka only tells its log what each broker's answer was."""

import ssl
from collections.abc import Mapping
from typing import Any

from aiokafka.conn import collect_hosts, create_conn
from aiokafka.errors import KafkaError

from flotilla.config import KafkaSettings
from flotilla.kafka.client import client_arguments

_LIMIT_MS = 3_000


async def refusals(settings: KafkaSettings) -> dict[str, Exception]:
    """Connect to each of the bootstrap servers; return what stops it, by address. Empty where one can be reached."""
    found: dict[str, Exception] = {}
    for host, port, _ in collect_hosts(settings.kafka_bootstrap_servers, randomize=False):
        try:
            arguments: dict[str, Any] = {**client_arguments(settings)}
            del arguments["bootstrap_servers"]
            connection = await create_conn(host, port, request_timeout_ms=_LIMIT_MS, **arguments)
        except (KafkaError, OSError, TimeoutError) as error:
            found[f"{host}:{port}"] = error
        else:
            connection.close()
            return {}
    return found


def reasons(refused: Mapping[str, Exception]) -> str:
    """Return them as a line of text."""
    return "; ".join(f"{place}: {_reason(error)}" for place, error in refused.items())


def _reason(error: Exception) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is not trusted: {error.verify_message} (check FLOTILLA_KAFKA_CA_FILE)"
    if isinstance(error, ssl.SSLError):
        return (
            f"{error.reason or error} (check FLOTILLA_KAFKA_SECURITY_PROTOCOL, and FLOTILLA_KAFKA_CERT_FILE where it "
            "asks for a certificate)"
        )
    return str(error) or type(error).__name__
