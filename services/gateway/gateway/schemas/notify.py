"""Receivers of notices."""

from datetime import datetime

from gateway.schemas.common import Answer


class TenantNotify(Answer):
    """Who is notified of the tenant's runs that name nobody themselves."""

    url: str
    secret_ref: str
    set_by: str
    set_at: datetime


class NotifyUnset(Answer):
    """Nobody is notified any more."""

    url: None = None
