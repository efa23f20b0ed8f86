"""A password that a file holds: `?password_file=PATH` in a DSN or URL.

The file is read at each connect, so a password or a token that is replaced while a service runs (a Secret that is
mounted, a sidecar that signs in) is used by the next connection, without a restart.
"""

from collections.abc import Callable
from pathlib import Path
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

from flotilla.contracts.errors import ConfigurationError

_PARAMETER = "password_file"


def split_password_file(url: str) -> tuple[str, Callable[[], str] | None]:
    """Return the URL without the parameter, and what reads the password; None where the URL names no file.

    Raises:
        ConfigurationError: the URL has a password, too.
    """
    parts = urlsplit(url)
    parameters = parse_qsl(parts.query, keep_blank_values=True)
    paths = [value for name, value in parameters if name == _PARAMETER]
    if not paths:
        return url, None
    if ":" in parts.netloc.rpartition("@")[0]:
        raise ConfigurationError(f"a URL has a password and {_PARAMETER}={paths[-1]}: take one of them out")
    query = urlencode([each for each in parameters if each[0] != _PARAMETER], safe="/")
    return urlunsplit(parts._replace(query=query)), lambda: read_password_file(Path(paths[-1]))


def read_password_file(path: Path) -> str:
    """Return what the file holds, without the end of its line.

    Raises:
        OSError: as for a server that is away: the file may come back.
    """
    try:
        return path.read_text(encoding="utf-8").rstrip("\r\n")
    except OSError as error:
        raise ConnectionError(f"the password file {path} can't be read: {error.strerror}") from error
