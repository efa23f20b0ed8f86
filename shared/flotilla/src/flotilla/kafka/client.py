"""How every part of the fleet reaches Kafka: one translation from settings to aiokafka's arguments."""

import ipaddress
import logging
import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypedDict

from aiokafka.abc import AbstractTokenProvider

from flotilla.config import KafkaSettings
from flotilla.config.password_files import read_password_file
from flotilla.contracts.errors import ConfigurationError
from flotilla.kafka.tokens import shared_token_command

CONNECT_TIMEOUT_S = 10.0
"""How long a client may take to connect."""
_REQUEST_TIMEOUT_MS = 5_000
"""How long a broker may take to answer, the first request on a connection included. One that is frozen is asked two or
three times before a client follows the new leader. Joining a group may be held back for longer: it is repeated."""


class _CleartextWarningFilter(logging.Filter):
    """Drops aiokafka's warning of passwords in the clear, one per connection, while none leaves this machine."""

    leaves_machine = False
    """Whether this process was ever configured to send one elsewhere; then it is warned of each."""

    def filter(self, record: logging.LogRecord) -> bool:
        """See logging.Filter."""
        return self.leaves_machine or record.msg != "Sending username and password in the clear"


_cleartext_warnings = _CleartextWarningFilter()
logging.getLogger("aiokafka.conn").addFilter(_cleartext_warnings)


class KafkaClientArguments(TypedDict, total=False):
    """What AIOKafkaProducer, AIOKafkaConsumer and AIOKafkaAdminClient all take."""

    bootstrap_servers: str
    request_timeout_ms: int
    security_protocol: str
    ssl_context: ssl.SSLContext
    sasl_mechanism: str
    sasl_plain_username: str
    sasl_plain_password: str
    sasl_oauth_token_provider: AbstractTokenProvider


def kafka_client_arguments(settings: KafkaSettings) -> KafkaClientArguments:
    """Where and how to connect, TLS and SASL included: `AIOKafkaProducer(**kafka_client_arguments(settings), ...)`.

    Raises:
        ConfigurationError: a login that is not complete, half a pair of certificate and key, or an unreadable file.
        ConnectionError: the password's file can't be read; it may come back.
    """
    arguments = KafkaClientArguments(
        bootstrap_servers=settings.kafka_bootstrap_servers,
        request_timeout_ms=_REQUEST_TIMEOUT_MS,
        security_protocol=settings.kafka_security_protocol,
    )
    if settings.kafka_security_protocol.endswith("SSL"):
        arguments["ssl_context"] = _make_ssl_context(settings)
    elif settings.kafka_ca_file or settings.kafka_cert_file:
        raise ConfigurationError(
            f"FLOTILLA_KAFKA_CA_FILE and FLOTILLA_KAFKA_CERT_FILE need TLS, and FLOTILLA_KAFKA_SECURITY_PROTOCOL is "
            f"{settings.kafka_security_protocol}: set it to SSL or SASL_SSL"
        )
    if settings.kafka_security_protocol.startswith("SASL"):
        arguments["sasl_mechanism"] = settings.kafka_sasl_mechanism
        arguments.update(_sasl_arguments(settings))
        if not all(map(_is_loopback, settings.kafka_bootstrap_servers.split(","))):
            _cleartext_warnings.leaves_machine = True
    return arguments


def _is_loopback(server: str) -> bool:
    host = server.strip().rpartition(":")[0].strip("[]")
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:  # another name
        return False


def _sasl_arguments(settings: KafkaSettings) -> KafkaClientArguments:
    if settings.kafka_sasl_mechanism == "OAUTHBEARER":
        if settings.kafka_token_command is None:
            raise ConfigurationError(
                "FLOTILLA_KAFKA_SASL_MECHANISM=OAUTHBEARER needs FLOTILLA_KAFKA_TOKEN_COMMAND: set a command that "
                "prints a token"
            )
        return KafkaClientArguments(sasl_oauth_token_provider=shared_token_command(settings.kafka_token_command))
    password = _read_password(settings)
    if settings.kafka_username is None or password is None:
        raise ConfigurationError(
            f"FLOTILLA_KAFKA_SECURITY_PROTOCOL={settings.kafka_security_protocol} needs FLOTILLA_KAFKA_USERNAME and "
            "FLOTILLA_KAFKA_PASSWORD (or FLOTILLA_KAFKA_PASSWORD_FILE): set both"
        )
    return KafkaClientArguments(sasl_plain_username=settings.kafka_username, sasl_plain_password=password)


def _read_password(settings: KafkaSettings) -> str | None:
    if settings.kafka_password_file is None:
        return settings.kafka_password.get_secret_value() if settings.kafka_password else None
    if settings.kafka_password is not None:
        raise ConfigurationError("FLOTILLA_KAFKA_PASSWORD and FLOTILLA_KAFKA_PASSWORD_FILE are both set: take one out")
    return read_password_file(settings.kafka_password_file)


class _RenewingSslContext(ssl.SSLContext):
    """Presents the certificate that its files hold at each connect: they are replaced while a service runs."""

    def use_certificate_files(self, certificate: Path, key: Path) -> None:
        """Take this pair of files, now and at each connect."""
        self._load: Callable[[], None] = lambda: self.load_cert_chain(certificate, key)
        self._load()

    def wrap_bio(self, *arguments: Any, **options: Any) -> ssl.SSLObject:
        """See ssl.SSLContext; asyncio calls it for each connection."""
        self._load()
        return super().wrap_bio(*arguments, **options)


def _make_ssl_context(settings: KafkaSettings) -> ssl.SSLContext:
    certificate, key = settings.kafka_cert_file, settings.kafka_key_file
    if (certificate is None) != (key is None):
        raise ConfigurationError("FLOTILLA_KAFKA_CERT_FILE and FLOTILLA_KAFKA_KEY_FILE belong together: set both")
    context = _make_verifying_context(settings.kafka_ca_file, _RenewingSslContext if certificate else ssl.SSLContext)
    if isinstance(context, _RenewingSslContext) and certificate and key:
        try:
            context.use_certificate_files(certificate, key)
        except OSError as error:  # ssl.SSLError is one
            raise ConfigurationError(
                f"FLOTILLA_KAFKA_CERT_FILE={certificate} and FLOTILLA_KAFKA_KEY_FILE={key} can't be read as a "
                f"certificate and its key: {error}"
            ) from error
    return context


def _make_verifying_context(ca_file: str | None, kind: type[ssl.SSLContext]) -> ssl.SSLContext:
    """A context that verifies the broker, its name included."""
    context = kind(ssl.PROTOCOL_TLS_CLIENT)
    try:
        if ca_file is None:
            context.load_default_certs()
        else:
            context.load_verify_locations(ca_file)
    except OSError as error:
        raise ConfigurationError(f"FLOTILLA_KAFKA_CA_FILE={ca_file} can't be read as certificates: {error}") from error
    return context
