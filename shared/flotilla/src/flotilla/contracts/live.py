"""The live stream of a run, `flotilla.runs.<run>`: fields `kind` and `data`, the latter one of these as JSON."""

from dataclasses import dataclass
from typing import Literal, TypeAlias

LiveKind: TypeAlias = Literal["token", "reset", "step", "done"]
LiveStepStatus: TypeAlias = Literal["started", "finished", "failed"]


@dataclass(frozen=True, slots=True, kw_only=True)
class LiveToken:
    """`token`: a piece of the answer."""

    text: str
    task_id: str
    attempt: int


@dataclass(frozen=True, slots=True, kw_only=True)
class LiveReset:
    """`reset`: the tokens of this task shown so far are void."""

    task_id: str
    attempt: int


@dataclass(frozen=True, slots=True, kw_only=True)
class LiveStep:
    """`step`: a step began or ended."""

    step: str
    status: LiveStepStatus
    attempt: int
    agent: str


@dataclass(frozen=True, slots=True, kw_only=True)
class LiveDone:
    """`done`: the run is over."""

    status: str


LiveData: TypeAlias = LiveToken | LiveReset | LiveStep | LiveDone
