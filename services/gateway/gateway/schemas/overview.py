"""The fleet at a glance."""

from gateway.schemas.common import Answer


class Stream(Answer):
    """A stream of the bus, and what waits on it for the group that has to read it."""

    stream: str
    group: str
    """Empty for a stream that has nothing but dead letters."""
    lag: int | None
    """Entries that nobody has read; null where Redis can't tell."""
    pending: int
    """Entries that somebody has in hand."""
    oldest_pending_s: float | None
    dead_letters: int
    """The tenant's own that wait for a person."""


class OutboxLoad(Answer):
    """Events on their way to Kafka, of the whole fleet; `parked` are the tenant's own sessions."""

    backlog_rows: int
    oldest_unpublished_s: float
    parked: int


class AuditLoad(Answer):
    """The projection: how far it is behind, and sessions of the tenant that it holds back."""

    lag_events: int | None
    """Null while Kafka does not answer."""
    checkpoint_age_s: float | None
    """Null before the first checkpoint."""
    parked_sessions: int


class Fleet(Answer):
    """Everything that may pile up. Counts stop at 10,001."""

    streams: list[Stream]
    outbox: OutboxLoad
    audit: AuditLoad
    approvals_pending: int
    parked_orders: int
    runs_active: int


class FleetSeries(Answer):
    """One value for each of the times; null is unknown."""

    stream_lag: list[int | None]
    stream_pending: list[int | None]
    outbox_backlog: list[int | None]
    audit_lag: list[int | None]
    runs_finished: list[int]
    """Since the time before."""
    approvals_pending: list[int]


class FleetHistory(Answer):
    """The last hour, as this replica saw it: what is of the whole fleet is null before it ran."""

    step_s: int
    times: list[float]
    """Seconds since 1970, ascending."""
    series: FleetSeries
