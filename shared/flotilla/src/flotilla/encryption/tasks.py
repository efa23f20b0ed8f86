"""Tasks as they are published and kept: their input is encrypted, so that Redis and the rows of delegations hold none.

Agents built with the library open it with the session's key, to which their ticket entitles them. One that works over
Redis alone has no key, so a task that visits it stays clear.
"""

from dataclasses import replace

from flotilla.contracts.envelope import from_builtins, to_builtins
from flotilla.contracts.errors import Invalid
from flotilla.contracts.json_types import JsonValue
from flotilla.contracts.tasks import AgentTask, Replay, root_task_id
from flotilla.encryption.cipher import ERASED
from flotilla.encryption.columns import WRAPPED, is_wrapped, unwrapped, wrapped
from flotilla.encryption.keyring import Cipher


def sealed_task(cipher: Cipher | None, task: AgentTask) -> AgentTask:
    """The task with its input encrypted, and with what a replay says; as it is without a cipher.

    Raises:
        Invalid: its input would be taken for an encrypted one.
    """
    if is_wrapped(task.input):
        raise Invalid(
            f"task {task.task_id}: its input looks like what Flotilla encrypts: rename its member {WRAPPED!r}"
        )
    if cipher is None:
        return task
    value: dict[str, JsonValue] = {"input": task.input}
    if task.replay is not None:
        value["replay"] = to_builtins(task.replay)
    return replace(task, input=wrapped(cipher, value, _place(task)), replay=_without_words(task.replay))


def opened_task(cipher: Cipher | None, task: AgentTask) -> AgentTask:
    """The task as it was, or with `[erased]` for its input where the key was destroyed."""
    if not is_wrapped(task.input):
        return task
    found = unwrapped(cipher, task.input, _place(task), {"input": {"text": ERASED}})
    replay = from_builtins(found["replay"], Replay) if "replay" in found else task.replay
    return replace(task, input=found["input"], replay=replay)


def _without_words(replay: Replay | None) -> Replay | None:
    return None if replay is None else replace(replay, prompts={}, calls=[], history=[])


def _place(task: AgentTask) -> str:
    """Of all hops of a slip: each gets the input of the first."""
    return f"agent_tasks.input/{root_task_id(task.task_id)}"
