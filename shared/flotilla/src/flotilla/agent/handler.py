"""The bus handler of an agent: one delivery in, its published answer out.

At least once in, exactly one effect: the answer is looked up first, written under the task's id, and sent again
whenever the same task is delivered again.
"""

import asyncio
from collections.abc import Mapping
from typing import Any

import structlog

from flotilla.agent import replies
from flotilla.agent.agent import Agent
from flotilla.agent.context import TaskContext
from flotilla.agent.effects import EffectFailed, StoredAnswer, TaskAnswerStore, TaskNoLongerOpen
from flotilla.agent.execution import FunctionOutcome, failed_outcome, run_task_function
from flotilla.agent.gates import GatedToolCalls, PostgresApprovalGate
from flotilla.agent.live import RedisLiveOutput
from flotilla.agent.mcp_tools import load_allowed_tools, load_mcp_call_outcomes
from flotilla.agent.model import StoredTaskModel
from flotilla.agent.ports import LiveOutput, McpCaller
from flotilla.agent.proofs import GatedCallSignatureChecker, VoteCheckRules
from flotilla.agent.recorded_run import SessionBeforeRecordedRun
from flotilla.agent.recording import storable_exception_message
from flotilla.agent.session import StoredSessionHistory
from flotilla.agent.ticket_check import TaskTicketCheck
from flotilla.agent.tool_calls import PostgresToolCallStore
from flotilla.agent.tools import AgentToolBox
from flotilla.bus import DONE, Delivery, HandlerResult, LiveRunWriter, Publisher, Redis
from flotilla.config.signing import PublicKeys
from flotilla.contracts.errors import Refused
from flotilla.contracts.ids import IdMaker, new_id
from flotilla.contracts.tasks import AgentTask, Failure
from flotilla.encryption import Cipher, is_wrapped, opened_task
from flotilla.llm import LanguageModel, MoneyBudget, StoredModelCalls, TokenLimits
from flotilla.postgres import (
    UNSTORABLE,
    Pool,
    TaskProof,
    acting_for_task,
    no_session_key,
    reading_cipher,
    retry_later_if_unavailable,
    session_cipher,
)
from flotilla.runtime.cancellation import cancel_all
from flotilla.runtime.key_locks import KeyLocks

TASK_HEARTBEAT_INTERVAL_S = 5.0
log = structlog.get_logger(__name__)


class AgentTaskHandler:
    """Answers the tasks of one agent."""

    def __init__(
        self,
        agent: Agent,
        *,
        pool: Pool,
        redis: Redis,
        tools: AgentToolBox,
        model: LanguageModel | None = None,
        limits: TokenLimits | None = None,
        money: MoneyBudget | None = None,
        replay_models: Mapping[str, LanguageModel] | None = None,
        keys: PublicKeys,
        vote_rules: VoteCheckRules,
        mcp_caller: McpCaller | None = None,
        make_id: IdMaker = new_id,
        heartbeat_s: float = TASK_HEARTBEAT_INTERVAL_S,
    ) -> None:
        self._agent = agent
        self._pool = pool
        self._redis = redis
        self._tools = tools
        self._calls = StoredModelCalls(pool, model, limits, money) if model else None
        self._replay_calls = {
            name: StoredModelCalls(pool, offered, limits, money) for name, offered in (replay_models or {}).items()
        }
        self._mcp_caller = mcp_caller
        self._make_id = make_id
        self._heartbeat_s = heartbeat_s
        self._ticket_check = TaskTicketCheck(agent.name, keys, pool)
        self._effects = TaskAnswerStore(pool, agent.name)
        self._publisher = Publisher(redis)
        self._feed = LiveRunWriter(redis)
        self._proofs = GatedCallSignatureChecker(pool, vote_rules, keys)
        self._busy = KeyLocks()

    async def __call__(self, delivery: Delivery) -> HandlerResult:
        """Answers one delivery.

        Raises:
            Untrusted: the worker did not sign it.
            UnknownType, Undecodable, DeadLetter: it is not a task of this agent, or its time is over.
            RetryLater: PostgreSQL is unavailable, or does not know the task (yet).
        """
        task = await self._ticket_check.check_and_read_task(delivery)
        if task is None:
            return DONE
        structlog.contextvars.bind_contextvars(
            task_id=task.task_id, run_id=task.run_id, session_id=task.session_id, tenant=task.tenant_id
        )
        try:
            answer = await self._load_or_run(delivery, task)
        except TaskNoLongerOpen as over:
            log.info("task_over", task_id=task.task_id, attempt=task.attempt, reason=str(over))
            return DONE
        return HandlerResult(replies.reply_events_for_answer(self._agent, task, answer))

    async def _load_or_run(self, delivery: Delivery, task: AgentTask) -> StoredAnswer:
        """The stored answer, or that of a run."""
        # The same task twice at a time happens after Redis lost its data: the second one waits for the answer.
        async with self._busy.locked((task.tenant_id, task.task_id)):
            with acting_for_task(_proof_of_held_task(task)):
                taken = await self._effects.load_received_task(task)
                return taken.answer or await self._run_task(delivery, task, taken.input)

    async def _run_task(self, delivery: Delivery, task: AgentTask, below: dict[str, Any] | None) -> StoredAnswer:
        cipher = await self._load_session_cipher(task)
        task = opened_task(cipher, task)
        live = RedisLiveOutput(self._redis, self._publisher, self._feed, self._agent, task, cipher=cipher)
        if task.attempt > 1 or delivery.deliveries > 1:
            await live.void_shown_text()
        await live.show_step_status("started")
        ctx = await self._make_task_context(task, live, is_first=task.attempt == 1 and delivery.deliveries == 1)
        if task.input_from is not None and below is None:
            outcome = _no_input(ctx)
        elif problem := self._why_not_replayable(task):
            outcome = failed_outcome(ctx, Failure(type="NotReplayable", message=problem, retryable=False), 0.0)
        else:
            outcome = await self._run_with_heartbeat(ctx, live, {**(below or {}), **task.input})
        answer = await self._commit_outcome(ctx, delivery.entry_id, outcome)
        await live.show_step_status("finished" if answer.status == "done" else "failed")
        return answer

    async def _load_session_cipher(self, task: AgentTask) -> Cipher | None:
        """The cipher of the task's session; None where that records in clear."""
        with retry_later_if_unavailable(f"task {task.task_id} stays pending"):
            if is_wrapped(task.input):
                cipher = await reading_cipher(self._pool, task.tenant_id, task.session_id)
                if cipher is None:
                    raise no_session_key(task.session_id)
                return cipher
            async with self._pool.acquire() as connection:
                return await session_cipher(connection, task.tenant_id, task.session_id)

    def _why_not_replayable(self, task: AgentTask) -> str | None:
        """Why the task can't be done; None where it is no replay, or can."""
        if task.replay is None:
            return None
        if not self._agent.replayable:
            return f"agent {self._agent.name} does not say that it is replayable: its effects can't be blocked"
        if self._calls is not None and self._model_calls_for(task) is None:
            offered = ", ".join(sorted(self._replay_calls)) or "none"
            return (
                f"agent {self._agent.name} does not offer model {task.replay.model!r} to replays: it offers {offered}"
            )
        return None

    def _model_calls_for(self, task: AgentTask) -> StoredModelCalls | None:
        """Of the agent's model, or of the one that a replay asks for; None where there is none."""
        if self._calls is None or task.replay is None or task.replay.model in ("", self._calls.model_name):
            return self._calls
        return self._replay_calls.get(task.replay.model)

    async def _load_gated_calls(self, task: AgentTask) -> GatedToolCalls:
        if task.replay or not (self._agent.gated or self._agent.gates_calls or self._tools.may_need_approval):
            return GatedToolCalls(self._agent.name, task.task_id, {})
        gate = PostgresApprovalGate(self._pool, task, self._proofs)
        verdicts = await gate.load_verdicts()
        return GatedToolCalls(self._agent.name, task.task_id, self._agent.gated, gate=gate, verdicts=verdicts)

    async def _make_task_context(self, task: AgentTask, live: LiveOutput, *, is_first: bool) -> TaskContext:
        calls = self._model_calls_for(task)
        has_mcp = bool(self._agent.mcp)
        upstream = await load_allowed_tools(self._pool, task, self._agent.mcp) if has_mcp else {}
        # A first run has asked for none yet.
        upstream_answers = await load_mcp_call_outcomes(self._pool, task) if has_mcp and not is_first else None
        return TaskContext(
            self._agent.name,
            task,
            tools=self._tools.with_added_tools(upstream) if upstream else self._tools,
            live=live,
            session=SessionBeforeRecordedRun(task.replay.history)
            if task.replay
            else StoredSessionHistory(self._pool, task.tenant_id, task.session_id),
            model=StoredTaskModel(calls, task, self._agent.name) if calls else None,
            calls=PostgresToolCallStore(self._pool, task, self._agent.name),
            make_id=self._make_id,
            gated=await self._load_gated_calls(task),
            mcp_answers=upstream_answers,
            mcp_caller=self._mcp_caller,
        )

    async def _run_with_heartbeat(self, ctx: TaskContext, live: LiveOutput, data: dict[str, Any]) -> FunctionOutcome:
        """Runs the task with a heartbeat beside it, which also learns of a cancel that the task never asks about."""
        work = asyncio.create_task(run_task_function(self._agent, ctx, data), name=f"task {ctx.task_id}")
        try:
            while True:
                await asyncio.wait([work], timeout=self._heartbeat_s)
                if work.done():
                    return work.result()
                await live.report_progress("")
                if await live.is_cancelled():
                    ctx.cancel()
                    work.cancel()
        finally:
            await cancel_all([work])

    async def _commit_outcome(self, ctx: TaskContext, entry_id: str, outcome: FunctionOutcome) -> StoredAnswer:
        task = ctx.task
        try:
            return await self._effects.commit_outcome(task, entry_id, outcome)
        except EffectFailed as error:
            failure = Failure(type="EffectFailed", message=storable_exception_message(error), retryable=True)
            return await self._commit_outcome(ctx, entry_id, failed_outcome(ctx, failure, outcome.duration_ms))
        except (Refused, *UNSTORABLE) as error:
            # No such session to record in, or a store refuses what it holds: the answer alone is stored.
            log.warning("outcome_not_recorded", error=storable_exception_message(error), type=type(error).__name__)
            failure = Failure(type=type(error).__name__, message=storable_exception_message(error), retryable=False)
            bare = FunctionOutcome(status="failed", duration_ms=outcome.duration_ms, failure=failure, is_recorded=False)
            return await self._effects.commit_outcome(task, entry_id, bare)


def _proof_of_held_task(task: AgentTask) -> TaskProof:
    return TaskProof(task_id=task.task_id, attempt=task.attempt, secret=task.secret or "")


def _no_input(ctx: TaskContext) -> FunctionOutcome:
    message = f"task {ctx.task_id}: there is no stored result of {ctx.task.input_from}"
    return failed_outcome(ctx, Failure(type="ValueError", message=message, retryable=False), 0.0)
