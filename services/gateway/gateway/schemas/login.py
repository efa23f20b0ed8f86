"""Login to the console."""

from typing import Annotated, Literal

from pydantic import ConfigDict, Field

from gateway.auth.principal import Role
from gateway.schemas.common import Answer, RequestBody


class LoginOptions(Answer):
    """What the console needs to know before anybody is signed in."""

    key_login: bool
    """Whether an API key may be given on the login page."""
    oidc: bool
    """Whether `GET /auth/oidc/start` leads to an OpenID provider."""
    trace_url_template: str | None
    """A trace's address, with `{trace_id}` in it."""
    temporal_ui_url: str | None
    """The namespace's page in the Temporal UI; a workflow's is at `/workflows/<workflow id>` below it."""


class KeyLogin(RequestBody):
    """Login by an API key."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"key": "flo_…"}]})

    key: Annotated[str, Field(min_length=1, max_length=256)]


class Me(Answer):
    """Who is asking."""

    subject: str
    tenant: str
    roles: list[Role]
    kind: Literal["person", "service"]
    """Only people can approve."""
