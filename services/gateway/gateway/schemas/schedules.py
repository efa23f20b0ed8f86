"""Schedules."""

import re
from datetime import datetime
from typing import Annotated, Any, Self
from zoneinfo import available_timezones

from pydantic import AfterValidator, AwareDatetime, ConfigDict, Field, JsonValue, StringConstraints, model_validator

from flotilla.contracts.ids import utc_now
from flotilla.contracts.schedules import Overlap
from gateway.schemas.common import STORABLE, WRITTEN, Answer, Id, JsonBody, RequestBody, limit_json_size
from gateway.schemas.runs import MAX_INPUT_BYTES, MAX_QUERY_CHARACTERS, Metadata

DAY_S = 86_400.0
_FIELD = r"[0-9A-Za-z*?/,#L-]{1,64}"
_CRON = re.compile(rf"@(?:hourly|daily|midnight|weekly|monthly|yearly|annually)|{_FIELD}(?: {_FIELD}){{4,6}}")


def _check_cron(expression: str) -> str:
    if not _CRON.fullmatch(expression):
        raise ValueError("write minute, hour, day of month, month and day of week, as in 0 6 * * MON-FRI")
    return expression


def _check_zone(name: str) -> str:
    if name not in available_timezones():
        raise ValueError(f"{name} is not a time zone: give one such as Europe/Berlin")
    return name


def _check_end(end_at: datetime) -> datetime:
    if end_at <= utc_now():
        raise ValueError("it is in the past")
    return end_at


Cron = Annotated[str, StringConstraints(max_length=200), AfterValidator(_check_cron)]
Zone = Annotated[str, StringConstraints(max_length=64), AfterValidator(_check_zone)]
_Seconds = Annotated[float, Field(ge=0, le=30 * DAY_S)]
_SCHEDULE: JsonValue = {
    "schedule_id": "digest",
    "cron": ["0 6 * * MON-FRI"],
    "time_zone": "Europe/Berlin",
    "workflow": "brief",
    "input": {"topic": "harbours"},
}


class Times(RequestBody):
    """When it fires."""

    cron: Annotated[list[Cron], Field(max_length=10)] | None = None
    """Minute, hour, day of month, month, day of week; several are all meant."""
    interval_s: Annotated[float, Field(ge=1, le=366 * DAY_S)] | None = None
    """Instead: every so many seconds."""
    time_zone: Zone | None = None
    """Of `cron`; UTC by default."""
    jitter_s: _Seconds | None = None
    """Put each start off by a random time of so many seconds at most."""
    overlap: Overlap | None = None
    """While the run before is under way: `skip` (as without it), `buffer_one` or `allow`."""
    catch_up_s: Annotated[float, Field(ge=10, le=30 * DAY_S)] | None = None
    """Make up for starts that were missed while Temporal was away, if they are no older; 60 by default."""
    end_at: Annotated[AwareDatetime, AfterValidator(_check_end)] | None = None
    """No start after this moment."""

    @model_validator(mode="after")
    def _is_one_of_both(self) -> Self:
        if self.cron and self.interval_s is not None:
            raise ValueError("give either cron or interval_s")
        return self

    def given(self) -> dict[str, Any]:
        """What the request says of the times."""
        return {name: getattr(self, name) for name in Times.model_fields if name in self.model_fields_set}


class ScheduleBody(Times):
    """When to start what."""

    model_config = ConfigDict(json_schema_extra={"examples": [_SCHEDULE]})

    schedule_id: Annotated[Id, StringConstraints(max_length=64)] | None = None
    """A name for it; by default one is made."""
    query: Annotated[str, StringConstraints(min_length=1, max_length=MAX_QUERY_CHARACTERS), WRITTEN] | None = None
    """A question to ask; or `workflow` and `input`."""
    workflow: Id | None = None
    """Of `GET /v1/workflows`."""
    input: Annotated[JsonBody, limit_json_size(MAX_INPUT_BYTES)] | None = None
    """What the workflow takes, as its schema says."""
    session_id: Id | None = None
    """The session that records its runs, which wait for each other there; by default one of each run's own."""
    metadata: Metadata = Field(default_factory=dict)
    """Of its runs."""
    paused: bool = False
    """Make it without starting anything yet."""
    note: Annotated[str, StringConstraints(max_length=200), STORABLE] = ""

    @model_validator(mode="after")
    def _is_whole(self) -> Self:
        if (self.query is None) == (self.workflow is None):
            raise ValueError("give either a query or a workflow with its input")
        if self.query is not None and self.input is not None:
            raise ValueError("input belongs to a workflow: a question has only its query")
        if not self.cron and self.interval_s is None:
            raise ValueError("say when it fires: cron or interval_s")
        return self


class ScheduleChange(Times):
    """What to change; what is left out stays. Who changes a schedule is its maker from then on."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"paused": True, "note": "holidays"}]})

    input: Annotated[JsonBody, limit_json_size(MAX_INPUT_BYTES)] | None = None
    query: Annotated[str, StringConstraints(min_length=1, max_length=MAX_QUERY_CHARACTERS), WRITTEN] | None = None
    metadata: Metadata | None = None
    paused: bool | None = None
    note: Annotated[str, StringConstraints(max_length=200), STORABLE] | None = None
    expected_generation: Annotated[int, Field(ge=1)] | None = None
    """Change it only if it is still the one that was shown (409 `schedule_changed`)."""


class Schedule(Answer):
    """A schedule."""

    schedule_id: str
    cron: list[str]
    interval_s: float | None
    time_zone: str
    jitter_s: float
    overlap: Overlap
    catch_up_s: float
    end_at: datetime | None
    workflow: str
    """`rag` for a question."""
    query: str
    input: dict[str, Any] | None
    session_id: str | None
    metadata: dict[str, str]
    paused: bool
    note: str
    """Why it is paused, where somebody or the fleet said."""
    made_by: str
    """Who made it, or changed it last: its runs are theirs."""
    acted_by: str | None
    """The service that asked on the maker's behalf."""
    generation: int
    """Grows with every change; `expected_generation` of a change names it."""
    created_at: datetime
    updated_at: datetime
    next_starts: list[datetime] | None = None
    """The next five; null in lists, and while Temporal does not answer or has not got the last change."""


class ScheduleList(Answer):
    """A page of schedules, newest first."""

    schedules: list[Schedule]
    next_cursor: str | None


class ScheduleNamed(Answer):
    """Which schedule was deleted, or starts a run now."""

    schedule_id: str
