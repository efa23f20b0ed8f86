"""Notices of runs: who gets them, and what they say."""

from dataclasses import dataclass
from typing import Literal, TypeAlias

NoticeKind: TypeAlias = Literal["run.interrupted", "run.finished", "run.question_asked"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Notify:
    """A receiver: `secret_ref` names the secret that signs what it gets."""

    url: str
    secret_ref: str
