"""Whether a request comes from the console's own pages, and where those are.

A browser sends the cookie whoever made it ask. So a request that changes something has to carry a header that no form
and no other site's script can set without being asked first (there are no CORS answers here), and must come from this
origin. Source: OWASP, Cross-Site Request Forgery Prevention; Fetch Metadata (W3C).
"""

from dataclasses import dataclass
from urllib.parse import urlsplit

from starlette.requests import Request

from flotilla.contracts.errors import Forbidden

CONSOLE_HEADER = "X-Flotilla-Console"
_SAFE = {"GET", "HEAD", "OPTIONS"}


class CrossSite(Forbidden):
    """A browser was made to send it by somebody else's page."""

    code = "cross_site"


@dataclass(frozen=True, slots=True)
class Origin:
    """Where browsers find the gateway: `public_url`, or, where that is not set, whatever host they asked."""

    public_url: str | None = None

    def is_https(self, request: Request) -> bool:
        """Whether cookies can be bound to TLS. A client that lies about it only keeps its own from being sent."""
        if self.public_url is not None:
            return urlsplit(self.public_url).scheme == "https"
        return "https" in (request.url.scheme, request.headers.get("X-Forwarded-Proto"))

    def check(self, request: Request) -> None:
        """Lets a request pass that changes nothing, or that the console's own pages sent.

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
        return bool(host := request.headers.get("Host")) and urlsplit(origin).netloc == host


def _parts(url: str) -> tuple[str, str]:
    parts = urlsplit(url)
    return parts.scheme, parts.netloc
