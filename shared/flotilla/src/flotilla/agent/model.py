"""The language model as one run of a task sees it."""

from flotilla.agent.occurrences import IdenticalCallCounter
from flotilla.contracts.tasks import AgentTask
from flotilla.llm import Completion, CompletionRequest, OnToken, StoredCallKey, StoredModelCalls


class StoredTaskModel:
    """Calls under the task's id: a call that was answered before, in any run of the task, is not made again."""

    def __init__(self, calls: StoredModelCalls, task: AgentTask, agent: str) -> None:
        self._calls = calls
        self._task = task
        self._agent = agent
        self._occurrences = IdenticalCallCounter()

    @property
    def name(self) -> str:
        """The model that is asked for."""
        return self._calls.model_name

    async def complete(self, request: CompletionRequest, on_token: OnToken) -> Completion:
        """The stored answer, or the model's after it is stored."""
        with self._occurrences.reserve_call_number(self._calls.stored_call_hash(request)) as number:
            return await self._calls.complete(self._stored_call_key(number), request, on_token)

    def _stored_call_key(self, number: int) -> StoredCallKey:
        return StoredCallKey(
            tenant_id=self._task.tenant_id,
            task_id=self._task.task_id,
            call_index=number,
            session_id=self._task.session_id,
            agent=self._agent,
            run_id=self._task.run_id,
        )
