"""The language model as one task sees it."""

from flotilla.contracts.tasks import AgentTask
from flotilla.llm import CallKey, Completion, CompletionRequest, OnToken, StoredCalls


class StoredModel:
    """Calls under the task's id: a call that was answered before, in any run of the task, is not made again."""

    def __init__(self, calls: StoredCalls, task: AgentTask, agent: str) -> None:
        self._calls = calls
        self._task = task
        self._agent = agent

    async def complete(self, call_index: int, request: CompletionRequest, on_token: OnToken) -> Completion:
        """The stored answer, or the model's after it is stored."""
        key = CallKey(
            tenant_id=self._task.tenant_id,
            task_id=self._task.task_id,
            call_index=call_index,
            session_id=self._task.session_id,
            agent=self._agent,
            run_id=self._task.run_id,
        )
        return await self._calls.complete(key, request, on_token)
