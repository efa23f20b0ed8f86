"""What a run writes to its session: in order, each once, in few transactions."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice

from temporalio import workflow
from temporalio.exceptions import ApplicationError

from flotilla.contracts.envelope import to_json
from flotilla.contracts.event_rules import AGENT_PREFIX, write_violation_of_data
from flotilla.contracts.json_types import JsonObject
from flotilla.contracts.session_events import session_event_type
from flotilla.workflows.calls import custom as call
from flotilla.workflows.calls.runs import RunKey
from flotilla.workflows.delegation import ATTEMPT_TIMEOUT, UNLIMITED_RETRIES
from flotilla.workflows.interruption import wait_noticing_cancellation

MAX_RUN_RECORD_BYTES = 256_000
"""Of one event that a workflow records."""
MAX_NOTES_PER_TRANSACTION = 100
"""How many events one transaction appends: the session is locked meanwhile."""
CANCELLED_AFTER_A_WRITE = "cancelled-after-a-write"
"""Before this patch a run that was cancelled while it wrote went on."""


class RunJournal:
    """Notes that wait for their transaction. A replay makes the same notes in the same order, so none is lost."""

    def __init__(self, run: RunKey, workflow_name: str, written: int = 0) -> None:
        self._run = run
        self._workflow = workflow_name
        self._notes: list[call.RunNote] = []
        self._held = 0
        self._writing = asyncio.Lock()
        self.written = written
        """How many records were written: the number of the last one."""

    def note_step_end(self, step: str, agent: str, task_id: str, error: str | None = None) -> None:
        """Note that a step ended: done, or failed with `error`."""
        details: dict[str, str | None] = {"run_id": self._run.run_id, "step": step, "agent": agent, "task_id": task_id}
        details |= {"status": "failed", "error": error} if error else {"status": "done"}
        data: JsonObject = {"change": call.STEP_FINISHED, "details": details}
        self._notes.append(call.RunNote(data=data, task_id=None if error else task_id))

    def note_run_change(self, change: str, details: JsonObject) -> None:
        """Note a change of the run itself, which its author can't write."""
        self._notes.append(call.RunNote(data={"change": change, "details": {"run_id": self._run.run_id, **details}}))

    def add_author_note(self, note: call.RunNote) -> None:
        """Note what the author records.

        Raises:
            ApplicationError: `Invalid`: a workflow may not write this event, or it is too large.
        """
        # As an agent may: neither writes the changes that steer runs, actions and sessions.
        problem = write_violation_of_data(AGENT_PREFIX, session_event_type(note.kind), note.data, "")
        if len(to_json(note.data)) > MAX_RUN_RECORD_BYTES:
            problem = f"it has more than {MAX_RUN_RECORD_BYTES} bytes as JSON: record a reference"
        if problem:
            raise ApplicationError(f"a {note.kind} can't be recorded: {problem}", type="Invalid", non_retryable=True)
        self._notes.append(note)

    @contextmanager
    def hold_notes_back(self) -> Iterator[None]:
        """Write nothing of what is noted in the block until it ends: many steps, few transactions."""
        self._held += 1
        try:
            yield
        finally:
            self._held -= 1

    async def append_notes(self) -> None:
        """Append what is noted to the session, however long the database is unavailable.

        Raises:
            asyncio.CancelledError: the workflow was cancelled meanwhile; what was being written is written.
        """
        if self._held and len(self._notes) < MAX_NOTES_PER_TRANSACTION:
            return
        async with self._writing:
            while batch := list(islice(self._notes, MAX_NOTES_PER_TRANSACTION)):
                was_cancelled = await wait_noticing_cancellation(self._append_batch(batch))
                # Looked at only then: a run that nobody cancelled needs no marker in its history.
                if was_cancelled and workflow.patched(CANCELLED_AFTER_A_WRITE):
                    raise asyncio.CancelledError

    async def _append_batch(self, notes: list[call.RunNote]) -> None:
        self.written += 1
        records = call.RunEventRecords(run=self._run, workflow=self._workflow, number=self.written, notes=notes)
        await workflow.execute_local_activity(
            call.RECORD_EVENTS, records, start_to_close_timeout=ATTEMPT_TIMEOUT, retry_policy=UNLIMITED_RETRIES
        )
        del self._notes[: len(notes)]
