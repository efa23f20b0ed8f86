"""Settings become aiokafka's arguments, or a message that says what to set."""

from pathlib import Path

import pytest
from pydantic import SecretStr

from flotilla.config import KafkaSettings
from flotilla.contracts.errors import ConfigurationError
from flotilla.kafka.client import client_arguments


def test_plaintext_needs_only_the_address() -> None:
    arguments = client_arguments(KafkaSettings(kafka_bootstrap_servers="kafka:9092"))
    assert arguments == {"bootstrap_servers": "kafka:9092", "security_protocol": "PLAINTEXT"}


def test_tls_verifies_the_broker() -> None:
    arguments = client_arguments(KafkaSettings(kafka_bootstrap_servers="kafka:9093", kafka_security_protocol="SSL"))
    assert arguments["ssl_context"].check_hostname


def test_sasl_passes_name_and_password() -> None:
    arguments = client_arguments(
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
        client_arguments(settings)


def test_unreadable_ca_file_is_named(tmp_path: Path) -> None:
    broken = tmp_path / "ca.pem"
    broken.write_text("no certificate")
    settings = KafkaSettings(
        kafka_bootstrap_servers="kafka:9093", kafka_security_protocol="SSL", kafka_ca_file=str(broken)
    )
    with pytest.raises(ConfigurationError, match=str(broken)):
        client_arguments(settings)
