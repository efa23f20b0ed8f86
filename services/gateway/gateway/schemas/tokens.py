"""Browser tokens."""

from datetime import datetime
from typing import Annotated

from pydantic import ConfigDict, Field, JsonValue

from flotilla.contracts.names import QUESTION
from gateway.auth.principal import Scope
from gateway.schemas.common import Answer, Id, RequestBody

MAX_SESSIONS = 50
MAX_WORKFLOWS = 20
MIN_LIFE_S = 30
_READS: JsonValue = {"sessions": ["support-4711"], "expires_in_s": 600}
_RUNS: JsonValue = {"sessions": ["support-4711"], "scopes": ["run"], "workflows": ["rag", "brief"]}


class TokenBody(RequestBody):
    """A token for a web page."""

    model_config = ConfigDict(json_schema_extra={"examples": [_READS, _RUNS]})

    sessions: Annotated[list[Id], Field(min_length=1, max_length=MAX_SESSIONS)]
    """The only sessions that the token reaches. With the scope `run` one that is new is opened by its first run."""
    scopes: Annotated[list[Scope], Field(min_length=1, max_length=2)] = Field(default=["read"])
    """`read`: read the sessions and follow their runs; `run`, which includes it: also start runs, cancel them and judge
    their answers."""
    workflows: Annotated[list[Id], Field(max_length=MAX_WORKFLOWS)] = Field(default=[QUESTION])
    """What the token may start with the scope `run`; `rag` are questions."""
    expires_in_s: Annotated[int, Field(ge=MIN_LIFE_S)] = 600
    """Seconds that the token lasts, at most `FLOTILLA_BROWSER_TOKEN_MAX_S`; never longer than what it was made with."""


class BrowserToken(Answer):
    """A token that was just made."""

    token: str
    """The secret: shown this once, stored only as a hash."""
    token_id: str
    user_id: str
    """Who acts with it: who made it, or the person on whose behalf it was made."""
    sessions: list[str]
    scopes: list[Scope]
    workflows: list[str]
    expires_at: datetime
