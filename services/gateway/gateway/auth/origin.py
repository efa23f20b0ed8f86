"""Whether a request comes from the console's own pages, and where those are.

A browser sends the cookie no matter who made it ask. So a request that changes something has to carry a header that no
form and no other site's script can set without being asked first (there are no CORS answers here), and must come from
this origin. Source: OWASP, Cross-Site Request Forgery Prevention; Fetch Metadata (W3C).
"""

from dataclasses import dataclass
from urllib.parse import SplitResult, urlsplit

from starlette.requests import Request

from flotilla.contracts.errors import Forbidden

CONSOLE_HEADER = "X-Flotilla-Console"
_SAFE = {"GET", "HEAD", "OPTIONS"}
_LOOPBACK = {"localhost", "127.0.0.1", "::1"}


class CrossSite(Forbidden):
    """A browser was made to send it by somebody else's page."""

    code = "cross_site"


class InsecureLogin(Forbidden):
    """The browser came over plain http from another machine, where others can read the cookie."""

    code = "insecure_login"


@dataclass(frozen=True, slots=True)
class BrowserOriginPolicy:
    """Where browsers find the gateway: `public_url`, or, where that is not set, whatever host they asked."""

    public_url: str | None = None

    def uses_secure_cookies(self, request: Request) -> bool:
        """Whether cookies are `Secure`: always, but for plain http on this machine, or where `public_url` is http.

        A client that lies about the scheme only keeps its own cookie from being sent.
        """
        if self.public_url is not None:
            return urlsplit(self.public_url).scheme == "https"
        if "https" in (request.scope["scheme"], request.headers.get("X-Forwarded-Proto")):
            return True
        return _split(f"//{request.headers.get('Host', '')}").hostname not in _LOOPBACK

    def full_cookie_name(self, name: str, request: Request) -> str:
        """The cookie's full name. Browsers accept `__Host-` from this host alone, over TLS: no other can plant one."""
        return f"__Host-{name}" if self.uses_secure_cookies(request) else name

    def check_login_is_secure(self, request: Request) -> None:
        """Refuse a login whose cookie the browser would drop, or others could read.

        Raises:
            InsecureLogin: the page was loaded over plain http from another machine, and no setting allows that.
        """
        page = _split(request.headers.get("Origin", ""))
        if self.public_url is None and page.scheme == "http" and page.hostname not in _LOOPBACK:
            raise InsecureLogin("logins need https: set FLOTILLA_PUBLIC_URL to the address that browsers use")

    def check_same_origin(self, request: Request) -> None:
        """Let a request pass that changes nothing, or that the console's own pages sent.

        Raises:
            CrossSite: it is neither.
        """
        if request.method in _SAFE:
            return
        headers = request.headers
        if headers.get(CONSOLE_HEADER) != "1":
            raise CrossSite(f"a request with the console's cookie takes the header {CONSOLE_HEADER}: 1")
        site, origin = headers.get("Sec-Fetch-Site"), headers.get("Origin")
        if site is None and origin is None:
            raise CrossSite("the browser does not say which site sent this: it gives neither Sec-Fetch-Site nor Origin")
        if site not in (None, "same-origin") or (origin is not None and not self._is_own(origin, request)):
            raise CrossSite("another site sent this request")

    def _is_own(self, origin: str, request: Request) -> bool:
        if self.public_url is not None:
            return _parts(origin) == _parts(self.public_url)
        return bool(host := request.headers.get("Host")) and _split(origin).netloc == host


def _parts(url: str) -> tuple[str, str]:
    parts = _split(url)
    return parts.scheme, parts.netloc


def _split(url: str) -> SplitResult:
    """Split a URL from outside; one that can't be read has no parts."""
    try:
        return urlsplit(url)
    except ValueError:
        return urlsplit("")
