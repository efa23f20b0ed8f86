"""Recorded runs that are done again."""

from typing import Annotated, Literal

from pydantic import ConfigDict, Field, StringConstraints

from gateway.schemas.common import MAX_WAIT_S, STORABLE, WRITTEN, Id, RequestBody

MAX_PROMPT_CHARACTERS = 32_000
_MODEL = StringConstraints(max_length=200)
_PROMPT = StringConstraints(min_length=1, max_length=MAX_PROMPT_CHARACTERS)


class ReplayRequest(RequestBody):
    """What is to be other than in the recorded run."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"model": "gpt-5-mini"}, {"agents": {"write": "write-next"}, "index": "live"}]}
    )

    model: Annotated[str, _MODEL, STORABLE] = ""
    """One of `FLOTILLA_LLM_REPLAY_MODELS` of the agents; empty: the model that they use today."""
    prompts: dict[Id, Annotated[str, _PROMPT, WRITTEN]] = Field(default_factory=dict, max_length=16)
    """By agent: instead of the prompt in its code."""
    agents: dict[Id, Id] = Field(default_factory=dict, max_length=16)
    """By agent: which one works in its place, such as its next version under another name."""
    index: Literal["recorded", "live"] = "recorded"
    """`recorded`: searches find what they found then. `live`: they are made again in the documents of today."""
    wait_s: float | None = Field(default=None, ge=0, le=MAX_WAIT_S)
    """Wait this long for the result; the run goes on either way."""
