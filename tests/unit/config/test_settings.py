import pytest

from flotilla.config import LlmSettings, PostgresSettings, RedisSettings, ServiceSettings, load_settings
from flotilla.contracts.errors import ConfigurationError
from gateway.settings import Settings as GatewaySettings


class Settings(ServiceSettings, PostgresSettings, RedisSettings, LlmSettings):
    pass


@pytest.fixture(autouse=True)
def _clean(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("POSTGRES_DSN", "REDIS_URL", "METRICS_PORT", "LOG_LEVEL"):
        monkeypatch.delenv(f"FLOTILLA_{name}", raising=False)


def test_every_problem_is_reported_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLOTILLA_METRICS_PORT", "many")
    with pytest.raises(ConfigurationError) as caught:
        load_settings(Settings)
    message = str(caught.value)
    for variable in ("FLOTILLA_POSTGRES_DSN", "FLOTILLA_REDIS_URL", "FLOTILLA_METRICS_PORT"):
        assert variable in message


def test_no_message_shows_a_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLOTILLA_POSTGRES_DSN", "postgresql://flotilla_app:hunter2@db/flotilla")
    monkeypatch.setenv("FLOTILLA_REDIS_URL", "redis://:hunter2@cache")
    assert "hunter2" not in repr(load_settings(Settings))
    monkeypatch.setenv("FLOTILLA_LOG_LEVEL", "hunter2")
    with pytest.raises(ConfigurationError) as caught:
        load_settings(Settings)
    assert "hunter2" not in str(caught.value)


def test_settings_cannot_be_changed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLOTILLA_POSTGRES_DSN", "postgresql://db")
    monkeypatch.setenv("FLOTILLA_REDIS_URL", "redis://cache")
    settings = load_settings(Settings)
    with pytest.raises(ValueError, match="frozen"):
        settings.metrics_port = 1


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({"OIDC_ISSUER": "https://id.example"}, "FLOTILLA_OIDC_AUDIENCE"),
        ({"OIDC_ISSUER": "http://id.example", "OIDC_AUDIENCE": "a"}, "FLOTILLA_OIDC_ISSUER has to be https"),
        ({"OIDC_CLIENT_ID": "console"}, "FLOTILLA_OIDC_CLIENT_ID needs FLOTILLA_OIDC_ISSUER"),
        ({"CARD_SIGNING_KEY_FILE": "cards.pem"}, "FLOTILLA_CARD_SIGNING_KEY_FILE needs FLOTILLA_PUBLIC_URL"),
        ({"PUBLIC_URL": "flotilla.example"}, "FLOTILLA_PUBLIC_URL: flotilla.example is not an address"),
    ],
)
def test_settings_that_do_not_fit_each_other_are_named(
    monkeypatch: pytest.MonkeyPatch, given: dict[str, str], named: str
) -> None:
    stores = {
        "POSTGRES_DSN": "postgresql://db",
        "REDIS_URL": "redis://cache",
        "KAFKA_BOOTSTRAP_SERVERS": "kafka:9092",
        "TEMPORAL_ADDRESS": "temporal:7233",
    }
    for name, value in {**stores, **given}.items():
        monkeypatch.setenv(f"FLOTILLA_{name}", value)
    with pytest.raises(ConfigurationError) as caught:
        load_settings(GatewaySettings)
    assert named in str(caught.value)
    assert "FLOTILLA_:" not in str(caught.value)
    assert "Value error" not in str(caught.value)
