"""Events from outside: kept in the order in which they came, each once, until the workflow waits for them."""

from temporalio import workflow

from flotilla.contracts.questions import is_answer_event
from flotilla.contracts.requests import RUN_EVENT_SIGNAL, OutsideEvent

ANSWERS_WAKE_AGAIN = "answers-wake-again"
"""Before this patch a second event under an answer's id did not wake the workflow up."""


class RunEventInbox:
    """What came from outside and was not taken yet."""

    def __init__(self, waiting: list[OutsideEvent], seen: list[str]) -> None:
        self.waiting = list(waiting)
        self.seen = list(seen)
        """The ids of all events that came: one may be signalled twice."""

    def receive_events(self) -> None:
        """Take the events that come from now on, and those that came before."""
        workflow.set_signal_handler(RUN_EVENT_SIGNAL, self._receive_event)

    def _receive_event(self, event: OutsideEvent) -> None:
        if event.event_id not in self.seen:
            self.seen.append(event.event_id)
            self.waiting.append(event)
        elif self._is_answer_event(event):
            self.waiting.append(event)

    def _is_answer_event(self, event: OutsideEvent) -> bool:
        # A caller who reaches Temporal can use an answer's id first. To wake up twice does no harm: the row decides.
        return is_answer_event(event.name) and not self.has_event(event.name) and workflow.patched(ANSWERS_WAKE_AGAIN)

    def take_event(self, name: str) -> OutsideEvent | None:
        """Return the oldest event called `name` and forget it; None when there is none."""
        for event in self.waiting:
            if event.name == name:
                self.waiting.remove(event)
                return event
        return None

    def has_event(self, name: str) -> bool:
        """Return whether an event called `name` waits."""
        return any(event.name == name for event in self.waiting)
