"""One small HTTP GET on loopback, past any proxy that the caller's environment names."""

import http.client

from flotilla_devstack.ports import LOOPBACK

_TIMEOUT_S = 1.0


def get(port: int, path: str) -> tuple[int, str]:
    """Status and body; (0, reason) when nobody answers within a second."""
    connection = http.client.HTTPConnection(LOOPBACK, port, timeout=_TIMEOUT_S)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        return answer.status, answer.read().decode("utf-8", errors="replace")
    except (OSError, http.client.HTTPException) as error:
        return 0, str(error)
    finally:
        connection.close()
