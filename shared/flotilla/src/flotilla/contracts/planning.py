"""What a planner gets and says, when a model chooses a run's next steps."""

from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from flotilla.contracts.json_types import JsonObject

PLANNER_AGENT = "plan"
"""The agent that asks the model."""
BUILT_IN_PLANNER = "built-in"
"""Says that no model chose: fixed rules did."""
MAX_STEPS_AT_ONCE = 16
"""Of one choice; further ones are refused."""
MAX_RESULT_CHARACTERS = 4000
"""Of a step's result that the planner reads."""
ToolKind: TypeAlias = Literal["agent", "action"]


@dataclass(frozen=True, slots=True, kw_only=True)
class OfferedTool:
    """An agent or an action that may be chosen."""

    name: str
    kind: ToolKind
    description: str
    schema: JsonObject
    """JSON schema of what it takes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ChosenStep:
    """A wish to ask an agent or to execute an action: what was not offered is refused."""

    call_id: str
    name: str
    arguments: JsonObject = field(default_factory=dict)
    refused: str = ""
    """Why it can't be done as the model wrote it; empty where it can."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StepOutcome:
    """What came of a chosen step, as text that nobody vouches for."""

    call_id: str
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Round:
    """A choice, and what came of it."""

    chosen: list[ChosenStep]
    outcomes: list[StepOutcome]


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanRequest:
    """Asks for the next steps, or for the answer."""

    goal: str
    tools: list[OfferedTool] = field(default_factory=list)
    rounds: list[Round] = field(default_factory=list)
    must_answer: bool = False
    """No further step is possible."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NextSteps:
    """What was chosen: steps, or where there are none, the answer."""

    steps: list[ChosenStep] = field(default_factory=list)
    answer: str = ""
    planner: str = BUILT_IN_PLANNER
    """The model that chose, or `built-in`."""
