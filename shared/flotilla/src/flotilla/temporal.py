"""How every part of the fleet reaches Temporal, what it sends there, and how it sees that it can work there."""

from collections.abc import Mapping
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

from temporalio.api.common.v1 import Payload
from temporalio.api.errordetails.v1 import WorkflowNotReadyFailure
from temporalio.api.workflowservice.v1 import DescribeNamespaceRequest
from temporalio.client import Client
from temporalio.converter import (
    AdvancedJSONEncoder,
    CompositePayloadConverter,
    DataConverter,
    DefaultPayloadConverter,
    JSONPlainPayloadConverter,
)
from temporalio.service import KeepAliveConfig, RPCError, RPCStatusCode, TLSConfig

from flotilla.config import TemporalSettings
from flotilla.contracts.errors import ConfigurationError, RetryLater
from flotilla.temporal_codec import FAILURES, Ciphers, SessionCodec

_LIMIT = timedelta(seconds=3)
_MAY_NOT_ASK = {RPCStatusCode.PERMISSION_DENIED, RPCStatusCode.UNIMPLEMENTED}
# Not more often: Temporal's frontend refuses pings that come within 10 s (frontend.keepAliveMinTime).
_KEEP_ALIVE = KeepAliveConfig(interval_millis=10_000, timeout_millis=3_000)
TASK_TIMEOUT = timedelta(seconds=5)
"""How long Temporal waits for a workflow task that a worker took. After a connection died silently, Temporal goes on
giving tasks to the polls that were open on it, and each of these tasks waits for so long. The default is 10 s."""
# https://grpc.io/docs/guides/status-codes/: the same call would be refused again, anyone who makes it.
_FINAL = {
    RPCStatusCode.INVALID_ARGUMENT,
    RPCStatusCode.FAILED_PRECONDITION,
    RPCStatusCode.OUT_OF_RANGE,
    RPCStatusCode.ALREADY_EXISTS,
    RPCStatusCode.UNIMPLEMENTED,
}


def is_permanent_error(error: RPCError) -> bool:
    """Whether Temporal would refuse the same call again: for what it holds, not for where or by whom it was made."""
    too_large = error.status == RPCStatusCode.RESOURCE_EXHAUSTED and "larger than max" in str(error)
    return (error.status in _FINAL and not _is_not_ready(error)) or too_large


def _is_not_ready(error: RPCError) -> bool:
    """Whether the workflow may take the call later: its tasks fail now, as when a worker has died with them in hand.

    The status is FAILED_PRECONDITION then, and only the details tell.
    """
    return any(detail.Is(WorkflowNotReadyFailure.DESCRIPTOR) for detail in error.grpc_status.details)


class _AsText(AdvancedJSONEncoder):
    def __init__(self, **options: Any) -> None:
        super().__init__(**{**options, "ensure_ascii": False})


class _Utf8(JSONPlainPayloadConverter):
    """Payloads as JSON in UTF-8. The SDK's own escape each letter beyond ASCII, in six bytes for two, so that a text
    that fits a Redis entry would be beyond the 2 MB that Temporal takes. Either form is read alike."""

    def __init__(self) -> None:
        super().__init__(encoder=_AsText)

    def to_payload(self, value: Any) -> Payload | None:
        """See JSONPlainPayloadConverter."""
        try:
            return super().to_payload(value)
        except UnicodeEncodeError:  # a lone surrogate: only its escape is ASCII
            return JSONPlainPayloadConverter().to_payload(value)


class _Payloads(CompositePayloadConverter):
    def __init__(self) -> None:
        others = DefaultPayloadConverter.default_encoding_payload_converters[:-1]
        super().__init__(*others, _Utf8())


DATA_CONVERTER = replace(DataConverter.default, payload_converter_class=_Payloads)


def temporal_connection_options(settings: TemporalSettings, ciphers: Ciphers | None = None) -> Mapping[str, Any]:
    """Return namespace, login and TLS: `Client.connect(address, **temporal_connection_options(settings), ...)`. With
    `ciphers`, payloads are encrypted with the keys of their workflows' sessions.

    Raises:
        ConfigurationError: a file can't be read, or only one of certificate and key is set.
    """
    return {
        "namespace": settings.temporal_namespace,
        "api_key": settings.temporal_api_key.get_secret_value() if settings.temporal_api_key else None,
        "tls": _tls(settings),
        "keep_alive_config": _KEEP_ALIVE,
        "data_converter": DATA_CONVERTER if ciphers is None else encrypting_converter(ciphers),
    }


def encrypting_converter(ciphers: Ciphers) -> DataConverter:
    """The converter of a client whose payloads are encrypted with the keys of their workflows' sessions."""
    return replace(DATA_CONVERTER, payload_codec=SessionCodec(ciphers), failure_converter_class=FAILURES)


def _tls(settings: TemporalSettings) -> TLSConfig | bool:
    ca, cert, key = settings.temporal_ca_file, settings.temporal_cert_file, settings.temporal_key_file
    if (cert is None) != (key is None):
        raise ConfigurationError("FLOTILLA_TEMPORAL_CERT_FILE and FLOTILLA_TEMPORAL_KEY_FILE belong together: set both")
    if not (ca or cert or settings.temporal_server_name):
        return settings.temporal_tls
    return TLSConfig(
        server_root_ca_cert=_read("FLOTILLA_TEMPORAL_CA_FILE", ca),
        client_cert=_read("FLOTILLA_TEMPORAL_CERT_FILE", cert),
        client_private_key=_read("FLOTILLA_TEMPORAL_KEY_FILE", key),
        domain=settings.temporal_server_name,
    )


def _read(variable: str, path: Path | None) -> bytes | None:
    try:
        return path.read_bytes() if path else None
    except OSError as error:
        raise ConfigurationError(f"{variable}={path} can't be read: {error.strerror}") from error


async def check_temporal(client: Client, address: str) -> None:
    """Raises RetryLater until Temporal answers and has the client's namespace."""
    try:
        await client.service_client.check_health(timeout=_LIMIT)
        await client.workflow_service.describe_namespace(
            DescribeNamespaceRequest(namespace=client.namespace), timeout=_LIMIT
        )
    except RPCError as error:
        if error.status in _MAY_NOT_ASK:
            return
        if error.status == RPCStatusCode.NOT_FOUND:
            name = client.namespace
            raise RetryLater(
                f"Temporal at {address} has no namespace {name}: set FLOTILLA_TEMPORAL_NAMESPACE, or create it with "
                f"`temporal operator namespace create --namespace {name}`"
            ) from error
        raise RetryLater(f"Temporal at {address} does not answer: {error} (check FLOTILLA_TEMPORAL_ADDRESS)") from error
    except RuntimeError as error:
        raise RetryLater(f"Temporal at {address} does not answer: {error} (check FLOTILLA_TEMPORAL_ADDRESS)") from error
