"""Which addresses the action `http_request` may call."""

import pytest
from pydantic import ValidationError

from flotilla.config.hosts import parse_allowed_url
from flotilla.contracts.errors import Forbidden
from workflow_worker.settings import Settings

HOSTS = ("api.example.com", "10.0.0.5:8443", "http://10.0.0.9:8080", "https://other.example.com")


@pytest.mark.parametrize(
    "url",
    [
        "https://api.example.com/v1",
        "https://API.example.com:443/v1",
        "https://10.0.0.5:8443/",
        "http://10.0.0.9:8080/x",
        "https://other.example.com/",
    ],
)
def test_listed_addresses_are_called(url: str) -> None:
    assert str(parse_allowed_url(url, HOSTS, "FLOTILLA_ACTION_HTTP_HOSTS")).startswith(url[:8].lower())


@pytest.mark.parametrize(
    "url",
    [
        "http://api.example.com/v1",
        "http://api.example.com:443/v1",
        "https://api.example.com:80/",
        "http://10.0.0.5:8443/",
        "https://10.0.0.9:8080/",
        "http://10.0.0.9/",
        "ftp://api.example.com/",
        "https://api.example.com.evil.example/",
        "https://user@api.example.com/",
        "https://evil.example/api.example.com",
    ],
)
def test_other_addresses_and_schemes_are_not(url: str) -> None:
    with pytest.raises(Forbidden):
        parse_allowed_url(url, HOSTS, "FLOTILLA_ACTION_HTTP_HOSTS")


@pytest.mark.parametrize("host", ["*", "http://", "ftp://a.example", "a.example/path", "a.example:port", "a b"])
def test_an_entry_that_is_no_host_is_refused_at_the_start(monkeypatch: pytest.MonkeyPatch, host: str) -> None:
    monkeypatch.setenv("FLOTILLA_ACTION_HTTP_HOSTS", host)
    with pytest.raises(ValidationError, match="FLOTILLA_ACTION_HTTP_HOSTS"):
        Settings(ticket_key_file="x")  # type: ignore[call-arg, arg-type]
