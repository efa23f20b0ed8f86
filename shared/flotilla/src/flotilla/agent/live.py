"""The live side of a task in hand, on Redis: progress replies, tokens, the cancel key."""

import structlog
from redis.exceptions import RedisError

from flotilla.agent import replies
from flotilla.agent.agent import Agent
from flotilla.bus import AWAY, LiveRunWriter, Publisher, Redis
from flotilla.bus.connection import execute_redis_command
from flotilla.contracts.errors import RetryLater
from flotilla.contracts.live import LiveStepStatus
from flotilla.contracts.names import cancelled_key
from flotilla.contracts.tasks import AgentTask, root_task_id
from flotilla.encryption import Cipher

log = structlog.get_logger(__name__)


class RedisLiveOutput:
    """Progress and tokens are courtesies: while Redis is unavailable they are dropped, and the task goes on."""

    def __init__(
        self,
        redis: Redis,
        publisher: Publisher,
        feed: LiveRunWriter,
        agent: Agent,
        task: AgentTask,
        *,
        cipher: Cipher | None = None,
    ) -> None:
        """`cipher` is that of the task's session, if its text is encrypted."""
        self._redis = redis
        self._publisher = publisher
        self._feed = feed
        self._agent = agent
        self._task = task
        self._cipher = cipher

    async def report_progress(self, text: str) -> None:
        """Tell the bridge, whose heartbeat it becomes; without the text, where the session's is encrypted."""
        text = text if self._cipher is None else ""
        try:
            await self._publisher.publish(*replies.make_progress_reply(self._agent, self._task, text))
        except RetryLater as error:
            log.warning("progress_not_sent", task_id=self._task.task_id, error=str(error))

    async def show_text(self, text: str) -> None:
        """Show `text` on the run's live stream."""
        if self._task.live:
            await self._feed.write_token(
                self._task.live, text, task_id=self._task.task_id, attempt=self._task.attempt, cipher=self._cipher
            )

    async def show_step_status(self, status: LiveStepStatus) -> None:
        """Show on the run's live stream that this agent began or ended."""
        if self._task.live:
            await self._feed.write_step(
                self._task.live, self._agent.name, status, attempt=self._task.attempt, agent=self._agent.name
            )

    async def void_shown_text(self) -> None:
        """Void what was shown of this task."""
        if self._task.live:
            await self._feed.write_reset(self._task.live, task_id=self._task.task_id, attempt=self._task.attempt)

    async def flush_text(self) -> None:
        """Wait for the tokens given so far."""
        await self._feed.wait_until_written()

    async def is_cancelled(self) -> bool:
        """Whether the bridge has set the cancel key, of this task or of the one that its slip began with."""
        task_id = self._task.task_id
        try:
            keys = {cancelled_key(task_id), cancelled_key(root_task_id(task_id))}
            return bool(await execute_redis_command(self._redis, "EXISTS", *keys))
        except (*AWAY, RedisError) as error:
            log.warning("cancel_unknown", task_id=task_id, error=str(error))
            return False
