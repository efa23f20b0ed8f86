"""A policy file that is followed while a service runs: checked before it is in force, and never half of it."""

import asyncio
import os

import structlog

from flotilla.approvals.policy import ApprovalPolicy, parse_policy, read_policy, read_policy_text
from flotilla.contracts.errors import ConfigurationError

POLICY_CHECK_INTERVAL_S = 2.0
POLICY_FILE_LAST_LINE = "# end"
"""Says that a file is whole. The beginning of a policy can be a valid policy with fewer rules, however long its writer
takes."""
log = structlog.get_logger(__name__)


class ReloadingPolicyFile:
    """The policy in force: that of the file at the start, then what the file becomes."""

    def __init__(self, source: str) -> None:
        """Read it.

        Raises:
            ConfigurationError: it can't be read, or not used.
        """
        self._source = source
        self._current = read_policy(source)
        self._path = os.path.realpath(source)
        self._seen: str | None = None
        self._refused: str | None = None

    @property
    def current_policy(self) -> ApprovalPolicy:
        """The policy in force. Take it once for what has several steps."""
        return self._current

    def reload_if_changed(self) -> bool:
        """Look at the file; return whether another policy is in force now.

        Another content counts when two looks in a row see it, and nothing of it can be missing: it ends with `# end`,
        or a link leads to another file now, as in a mounted ConfigMap. What can't be used changes nothing.
        """
        try:
            path, found = self._read_policy_file()
        except ConfigurationError as error:
            self._log_refused_policy(str(error))
            return False
        self._refused = None
        is_settled, self._seen = found.version == self._seen, found.version
        if found.version == self._current.version:
            self._path = path
            return False
        if not is_settled:
            return False
        log.info("policy_reloaded", before=self._current.version, policy_version=found.version)
        self._current, self._path = found, path
        return True

    def _read_policy_file(self) -> tuple[str, ApprovalPolicy]:
        """Return the file that the source is now, and its policy."""
        path = os.path.realpath(self._source)
        text = read_policy_text(self._source)
        found = parse_policy(text, self._source)
        is_whole = path != self._path or text.endswith(f"\n{POLICY_FILE_LAST_LINE}\n")
        if not is_whole and found.version != self._current.version:
            raise ConfigurationError(
                f"approval policy {self._source} has changed, and may be half written: "
                f"write {POLICY_FILE_LAST_LINE!r} and a line break at its end"
            )
        return path, found

    async def reload_until_stopped(self, stop: asyncio.Event) -> None:
        """Look every 2 s until `stop`."""
        while not stop.is_set():
            await asyncio.to_thread(self.reload_if_changed)
            try:
                async with asyncio.timeout(POLICY_CHECK_INTERVAL_S):
                    await stop.wait()
            except TimeoutError:
                continue

    def _log_refused_policy(self, reason: str) -> None:
        self._seen = None
        if reason != self._refused:  # once, not at every look
            log.error("policy_not_reloaded", reason=reason, policy_version=self._current.version)
        self._refused = reason
