"""Settings become aiokafka's arguments, or a message that says what to set."""

import logging
import ssl
from pathlib import Path

import pytest
from pydantic import SecretStr

from flotilla.config import KafkaSettings
from flotilla.contracts.errors import ConfigurationError
from flotilla.kafka.client import _CleartextWarningFilter, kafka_client_arguments
from flotilla.kafka.tokens import shared_token_command
from tests.support.certificates import make_certificates


def test_plaintext_needs_only_the_address() -> None:
    arguments = kafka_client_arguments(KafkaSettings(kafka_bootstrap_servers="kafka:9092"))
    assert arguments == {
        "bootstrap_servers": "kafka:9092",
        "security_protocol": "PLAINTEXT",
        "request_timeout_ms": 5_000,
    }


def test_tls_verifies_the_broker() -> None:
    arguments = kafka_client_arguments(
        KafkaSettings(kafka_bootstrap_servers="kafka:9093", kafka_security_protocol="SSL")
    )
    assert arguments["ssl_context"].check_hostname


def test_sasl_passes_name_and_password() -> None:
    arguments = kafka_client_arguments(
        KafkaSettings(
            kafka_bootstrap_servers="kafka:9094",
            kafka_security_protocol="SASL_PLAINTEXT",
            kafka_username="relay",
            kafka_password=SecretStr("secret"),
        )
    )
    assert arguments["sasl_mechanism"] == "SCRAM-SHA-512"
    assert (arguments["sasl_plain_username"], arguments["sasl_plain_password"]) == ("relay", "secret")
    assert "ssl_context" not in arguments


def test_sasl_without_a_password_says_what_to_set() -> None:
    settings = KafkaSettings(kafka_bootstrap_servers="kafka:9094", kafka_security_protocol="SASL_SSL")
    with pytest.raises(ConfigurationError, match="FLOTILLA_KAFKA_USERNAME and FLOTILLA_KAFKA_PASSWORD"):
        kafka_client_arguments(settings)


def test_unreadable_ca_file_is_named(tmp_path: Path) -> None:
    broken = tmp_path / "ca.pem"
    broken.write_text("no certificate")
    settings = KafkaSettings(
        kafka_bootstrap_servers="kafka:9093", kafka_security_protocol="SSL", kafka_ca_file=str(broken)
    )
    with pytest.raises(ConfigurationError, match=str(broken)):
        kafka_client_arguments(settings)


def over_tls(**changes: object) -> KafkaSettings:
    given = {"kafka_bootstrap_servers": "kafka:9093", "kafka_security_protocol": "SSL", **changes}
    return KafkaSettings(**given)  # type: ignore[arg-type]


def test_a_client_shows_the_certificate_that_its_files_hold_at_each_connect(tmp_path: Path) -> None:
    made = make_certificates(tmp_path)
    files = {"kafka_cert_file": made.client, "kafka_key_file": made.client_key}
    context = kafka_client_arguments(over_tls(kafka_ca_file=str(made.ca), **files))["ssl_context"]
    assert context.verify_mode is ssl.CERT_REQUIRED
    context.wrap_bio(ssl.MemoryBIO(), ssl.MemoryBIO(), server_hostname="kafka")
    made.client.write_text("half of it")
    with pytest.raises(ssl.SSLError):
        context.wrap_bio(ssl.MemoryBIO(), ssl.MemoryBIO(), server_hostname="kafka")


def test_half_a_pair_a_wrong_pair_and_files_without_tls_are_named(tmp_path: Path) -> None:
    made = make_certificates(tmp_path)
    for changes, message in (
        ({"kafka_cert_file": made.client}, "belong together"),
        ({"kafka_key_file": made.client_key}, "belong together"),
        ({"kafka_cert_file": made.client, "kafka_key_file": made.server_key}, "FLOTILLA_KAFKA_CERT_FILE=.*can't be"),
        ({"kafka_cert_file": made.ca, "kafka_key_file": tmp_path / "none"}, "FLOTILLA_KAFKA_KEY_FILE=.*can't be"),
        ({"kafka_security_protocol": "PLAINTEXT", "kafka_ca_file": str(made.ca)}, "set it to SSL or SASL_SSL"),
    ):
        with pytest.raises(ConfigurationError, match=message):
            kafka_client_arguments(over_tls(**changes))


def test_oauthbearer_needs_a_command_and_nothing_else() -> None:
    login = {"kafka_security_protocol": "SASL_SSL", "kafka_sasl_mechanism": "OAUTHBEARER"}
    with pytest.raises(ConfigurationError, match="FLOTILLA_KAFKA_TOKEN_COMMAND"):
        kafka_client_arguments(over_tls(**login))
    arguments = kafka_client_arguments(over_tls(**login, kafka_token_command="print-a-token"))
    assert arguments["sasl_oauth_token_provider"] is shared_token_command("print-a-token")


def test_a_password_is_read_from_its_file_for_each_client(tmp_path: Path) -> None:
    file = tmp_path / "password"
    login = {"kafka_security_protocol": "SASL_SSL", "kafka_username": "relay", "kafka_password_file": file}
    for password in ("first", "second"):
        file.write_text(f"{password}\n")
        assert kafka_client_arguments(over_tls(**login))["sasl_plain_password"] == password
    file.unlink()
    with pytest.raises(ConnectionError, match="password file"):
        kafka_client_arguments(over_tls(**login))
    with pytest.raises(ConfigurationError, match="take one out"):
        kafka_client_arguments(over_tls(**login, kafka_password=SecretStr("third")))


@pytest.mark.parametrize(
    ("servers", "warned"),
    [
        ("127.0.0.1:9092", False),
        ("localhost:9092, [::1]:9093", False),
        ("kafka:9092", True),
        ("127.0.0.1:9092,10.0.0.7:9092", True),
        ("localhost.example.com:9092", True),
    ],
)
def test_a_password_in_the_clear_is_warned_of_where_it_leaves_the_machine(
    servers: str, warned: bool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    log = logging.getLogger("aiokafka.conn")
    monkeypatch.setattr(log, "filters", [_CleartextWarningFilter()])
    monkeypatch.setattr("flotilla.kafka.client._cleartext_warnings", log.filters[0])
    kafka_client_arguments(
        KafkaSettings(
            kafka_bootstrap_servers=servers,
            kafka_security_protocol="SASL_PLAINTEXT",
            kafka_sasl_mechanism="PLAIN",
            kafka_username="relay",
            kafka_password=SecretStr("secret"),
        )
    )
    log.warning("Sending username and password in the clear")
    log.warning("anything else")
    assert caplog.messages == [*(["Sending username and password in the clear"] if warned else []), "anything else"]
