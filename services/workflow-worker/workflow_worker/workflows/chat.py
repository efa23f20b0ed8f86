"""`chat`: one reply of a language model in a conversation whose caller runs functions itself."""

from flotilla.contracts.conversations import CHAT, Conversation, Reply
from flotilla.contracts.envelope import to_builtins
from flotilla.workflows import Run, flotilla_workflow


@flotilla_workflow(name=CHAT, version="1")
class ChatWorkflow:
    """A language model replies, or wants functions of the caller to be run before it does."""

    async def run(self, run: Run, request: Conversation) -> Reply:
        """Ask the agent once: what a function returned comes with the next run's conversation."""
        return await run.ask(CHAT, to_builtins(request), returns=Reply)
