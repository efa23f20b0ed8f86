"""A policy file that is followed while a service runs: checked before it is in force, and never half of it."""

import asyncio

import structlog

from flotilla.approvals.policy import ApprovalPolicy, read_policy
from flotilla.contracts.errors import ConfigurationError

LOOK_EVERY_S = 2.0
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
        self._seen: str | None = None
        self._refused: str | None = None

    @property
    def current_policy(self) -> ApprovalPolicy:
        """The policy in force. Take it once for what has several steps."""
        return self._current

    def look(self) -> bool:
        """Look at the file; say whether another policy is in force now.

        Another content counts when two looks in a row see it: a file that is being written is one with fewer rules.
        What can't be used changes nothing.
        """
        try:
            found = read_policy(self._source)
        except ConfigurationError as error:
            self._refuse(str(error))
            return False
        self._refused = None
        is_settled, self._seen = found.version == self._seen, found.version
        if not is_settled or found.version == self._current.version:
            return False
        log.info("policy_reloaded", before=self._current.version, policy_version=found.version)
        self._current = found
        return True

    async def reload_until_stopped(self, stop: asyncio.Event) -> None:
        """Look every 2 s until `stop`."""
        while not stop.is_set():
            await asyncio.to_thread(self.look)
            try:
                async with asyncio.timeout(LOOK_EVERY_S):
                    await stop.wait()
            except TimeoutError:
                continue

    def _refuse(self, reason: str) -> None:
        self._seen = None
        if reason != self._refused:  # once, not at every look
            log.error("policy_not_reloaded", reason=reason, policy_version=self._current.version)
        self._refused = reason
