"""Asks a service whether it is ready: `python -m flotilla.runtime.probe http://gateway-health:9090/readyz`.

Exit code 0: it is; 1: it is not, or does not answer; the last line says why.
"""

import argparse
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Sequence

_ANSWER_S = 6.0
_PAUSE_S = 1.0


def probe_url(url: str, within_s: float) -> str | None:
    """Why `url` did not answer 200 within `within_s`; None when it did."""
    deadline = time.monotonic() + within_s
    while (problem := _ask(url)) is not None and time.monotonic() + _PAUSE_S < deadline:
        time.sleep(_PAUSE_S)
    return problem


def _ask(url: str) -> str | None:
    try:
        with urllib.request.urlopen(url, timeout=_ANSWER_S):  # noqa: S310 - the operator's own URL
            return None
    except urllib.error.HTTPError as answer:
        return f"{answer.code}: {answer.read(4096).decode(errors='replace')}"
    except OSError as error:
        return f"no answer: {error}"


def main(argv: Sequence[str] | None = None) -> int:
    """Probe and return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m flotilla.runtime.probe", description=__doc__)
    parser.add_argument("url")
    parser.add_argument("--within", type=float, default=30.0, metavar="SECONDS", help="how long to try (default: 30)")
    given = parser.parse_args(argv)
    problem = probe_url(given.url, given.within)
    sys.stdout.write(f"{given.url}: {problem or 'ready'}\n")
    return 1 if problem else 0


if __name__ == "__main__":
    raise SystemExit(main())
