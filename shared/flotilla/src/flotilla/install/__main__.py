"""Prepares the dependencies for the services: waits for them, then schema, topics, consumer groups, first keys.

Safe to run twice, and from several processes at once. Exit code 0: done; 1: a dependency did not answer in time;
2: something has to be set differently. The last line says what.
"""

import argparse
import asyncio
import io
import logging
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import redirect_stdout
from pathlib import Path

import structlog

from flotilla.config import load_settings
from flotilla.contracts.errors import ConfigurationError, RetryLater
from flotilla.install.keys import RequestedKeyFiles
from flotilla.install.settings import Settings
from flotilla.install.steps import install_groups, install_keys, install_schema, install_topics
from flotilla.telemetry import configure_logs

SERVICE = "install"
EXIT_OK, EXIT_FAILED, EXIT_MISUSE = 0, 1, 2
_PAUSE_S = 0.5
log = structlog.get_logger(__name__)


async def run_install_steps(settings: Settings, files: RequestedKeyFiles) -> None:
    """All steps; those that need different servers side by side.

    Raises:
        RetryLater: a dependency did not answer within `install_timeout_s`.
        ConfigurationError: something has to be set differently.
    """
    deadline = time.monotonic() + settings.install_timeout_s

    async def in_database() -> None:
        await _until(deadline, lambda: install_schema(settings))
        await _until(deadline, lambda: install_keys(settings, files))

    results = await asyncio.gather(
        in_database(),
        _until(deadline, lambda: install_topics(settings)),
        _until(deadline, lambda: install_groups(settings, files.redis_passwords)),
        return_exceptions=True,
    )
    _raise_all([result for result in results if isinstance(result, BaseException)])


async def _until(deadline: float, step: Callable[[], Awaitable[None]]) -> None:
    """Repeat `step` while its server is unavailable; each new reason is logged once."""
    told = ""
    while True:
        try:
            await step()
        except RetryLater as reason:
            if str(reason) != told:
                told = str(reason)
                log.warning("waiting_for_dependency", reason=told)
            if time.monotonic() + _PAUSE_S > deadline:
                raise
        else:
            return
        await asyncio.sleep(_PAUSE_S)


def _raise_all(problems: Sequence[BaseException]) -> None:
    """Every problem in one message: each run should show everything that needs fixing."""
    for problem in problems:
        if not isinstance(problem, ConfigurationError | RetryLater):
            raise problem
    wrong = [str(problem) for problem in problems if isinstance(problem, ConfigurationError)]
    if wrong:
        raise ConfigurationError("\n".join(wrong))
    if problems:
        raise RetryLater("\n".join(map(str, problems)))


def parse_arguments(argv: Sequence[str] | None = None) -> RequestedKeyFiles:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m flotilla.install", description=__doc__)
    parser.add_argument("--keys-file", type=Path, metavar="PATH", help="make the local stack's API keys, name → key")
    parser.add_argument(
        "--signing-key-file", type=Path, metavar="PATH", help="make the key that signs the audit log's checkpoints"
    )
    parser.add_argument("--ticket-key-file", type=Path, metavar="PATH", help="make the key that signs tasks")
    parser.add_argument(
        "--redis-passwords-file",
        type=Path,
        metavar="PATH",
        help="make the Redis users that it names (JSON, user → password)",
    )
    given = parser.parse_args(argv)
    return RequestedKeyFiles(given.keys_file, given.signing_key_file, given.ticket_key_file, given.redis_passwords_file)


def main(argv: Sequence[str] | None = None) -> int:
    """Install and return the exit code."""
    files = parse_arguments(argv)
    try:
        settings = load_settings(Settings)
        configure_logs(SERVICE, settings.log_level, settings.log_format)
        logging.getLogger("yoyo").setLevel(logging.WARNING)
        with redirect_stdout(io.StringIO()):  # yoyo prints what a migration's SELECT gives
            asyncio.run(run_install_steps(settings, files))
    except ConfigurationError as error:
        sys.stderr.write(f"{SERVICE}: {error}\n")
        return EXIT_MISUSE
    except RetryLater as error:
        sys.stderr.write(f"{SERVICE}: {error}\n")
        return EXIT_FAILED
    log.info("installed")
    return EXIT_OK


if __name__ == "__main__":
    raise SystemExit(main())
