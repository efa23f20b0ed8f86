"""What needs no server: where a login may lead to, and which requests come from the console itself."""

import pytest
from starlette.requests import Request

from gateway.auth.origin import BrowserOriginPolicy, CrossSite, InsecureLogin
from gateway.console_routes import safe_console_path

OWN = ["/", "/runs", "/runs/r-1", "/sessions/s?at=3&to=5", "/approvals/a#vote", "/ask?q=what%20is"]
FOREIGN = [
    "//evil.example",
    "///evil.example",
    "/\\evil.example",
    "\\\\evil.example",
    "https://evil.example/runs",
    "/runs\\..",
    "javascript:alert(1)",
    "data:text/html,x",
    "/\t/evil.example",
    "\t//evil.example",
    "/runs\r\nSet-Cookie: a=b",
    "/run",
    "runs",
    "",
    "/v1/runs",
    "/auth/oidc/start?next=/",
    "http:///runs",
    "//127.0.0.1/runs",
    "/%2f/evil.example",
    "/@evil",
    "/.evil.example",
    "/" + "a" * 3000,
    "/runs\u2028",
    "https:/runs",
    "/login@evil.example",
    "/;@evil.example",
]


@pytest.mark.parametrize("wanted", OWN)
def test_a_login_leads_to_the_console_page_that_was_asked_for(wanted: str) -> None:
    assert safe_console_path(wanted) == wanted


@pytest.mark.parametrize("wanted", [*FOREIGN, None])
def test_a_login_leads_nowhere_else(wanted: str | None) -> None:
    assert safe_console_path(wanted) == "/"


def request(method: str = "POST", **headers: str) -> Request:
    named = {"host": "flotilla.example:8080", **{name.replace("_", "-"): value for name, value in headers.items()}}
    raw = [(name.lower().encode(), value.encode()) for name, value in named.items()]
    scope = {"type": "http", "method": method, "scheme": "http", "path": "/", "query_string": b"", "headers": raw}
    return Request({**scope, "server": ("flotilla.example", 8080)})


HERE = "http://flotilla.example:8080"


@pytest.mark.parametrize(
    "headers",
    [
        {"sec_fetch_site": "same-origin"},
        {"origin": HERE},
        {"sec_fetch_site": "same-origin", "origin": HERE},
    ],
)
def test_the_consoles_own_requests_pass(headers: dict[str, str]) -> None:
    BrowserOriginPolicy().check_same_origin(request(x_flotilla_console="1", **headers))
    BrowserOriginPolicy(HERE).check_same_origin(request(x_flotilla_console="1", **headers))


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"sec_fetch_site": "same-origin"},
        {"origin": HERE},
        {"x_flotilla_console": "1"},
        {"x_flotilla_console": "yes", "sec_fetch_site": "same-origin"},
        {"x_flotilla_console": "1", "sec_fetch_site": "cross-site"},
        {"x_flotilla_console": "1", "sec_fetch_site": "same-site"},
        {"x_flotilla_console": "1", "sec_fetch_site": "none"},
        {"x_flotilla_console": "1", "sec_fetch_site": "cross-site", "origin": HERE},
        {"x_flotilla_console": "1", "sec_fetch_site": "same-origin", "origin": "http://evil.example"},
        {"x_flotilla_console": "1", "origin": "null"},
        {"x_flotilla_console": "1", "origin": "http://["},
        {"x_flotilla_console": "1", "origin": "http://flotilla.example:8081"},
        {"x_flotilla_console": "1", "origin": "http://flotilla.example:8080.evil.example"},
    ],
)
def test_requests_that_change_something_from_elsewhere_are_refused(headers: dict[str, str]) -> None:
    for origin in (BrowserOriginPolicy(), BrowserOriginPolicy(HERE)):
        with pytest.raises(CrossSite):
            origin.check_same_origin(request(**headers))


def test_reading_needs_no_proof_of_origin() -> None:
    for method in ("GET", "HEAD", "OPTIONS"):
        BrowserOriginPolicy().check_same_origin(request(method, sec_fetch_site="cross-site"))


def test_behind_a_known_address_the_scheme_counts_too() -> None:
    origin = BrowserOriginPolicy("https://flotilla.example")
    origin.check_same_origin(request(x_flotilla_console="1", origin="https://flotilla.example"))
    with pytest.raises(CrossSite):
        origin.check_same_origin(request(x_flotilla_console="1", origin="http://flotilla.example"))


def test_cookies_are_bound_to_tls_but_for_plain_http_on_this_machine() -> None:
    assert BrowserOriginPolicy("https://flotilla.example").uses_secure_cookies(request(host="localhost"))
    assert BrowserOriginPolicy().uses_secure_cookies(request(x_forwarded_proto="https", host="localhost"))
    assert BrowserOriginPolicy().uses_secure_cookies(request())  # a proxy that does not pass the scheme on
    for host in ("localhost:8080", "127.0.0.1:8080", "[::1]:8080"):
        assert not BrowserOriginPolicy().uses_secure_cookies(request(host=host))
    for host in ("localhost.evil.example", "[", "evil.example@localhost.example", ""):
        assert BrowserOriginPolicy().uses_secure_cookies(request(host=host))
    assert not BrowserOriginPolicy("http://flotilla.example:8080").uses_secure_cookies(
        request(x_forwarded_proto="https")
    )


def test_cookies_over_tls_are_taken_from_this_host_alone() -> None:
    assert (
        BrowserOriginPolicy("https://flotilla.example").full_cookie_name("flotilla_login", request())
        == "__Host-flotilla_login"
    )
    assert BrowserOriginPolicy().full_cookie_name("flotilla_login", request(host="localhost")) == "flotilla_login"


def test_a_login_over_plain_http_from_another_machine_needs_a_setting_that_allows_it() -> None:
    with pytest.raises(InsecureLogin, match="FLOTILLA_PUBLIC_URL"):
        BrowserOriginPolicy().check_login_is_secure(request(origin=HERE))
    BrowserOriginPolicy(HERE).check_login_is_secure(request(origin=HERE))
    BrowserOriginPolicy().check_login_is_secure(request(origin="https://flotilla.example"))
    BrowserOriginPolicy().check_login_is_secure(request(origin="http://localhost:8080", host="localhost:8080"))
    BrowserOriginPolicy().check_login_is_secure(request(sec_fetch_site="same-origin"))
