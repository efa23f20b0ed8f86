"""Governed actions, for authors of further ones: see docs/approvals.md."""

from flotilla.actions.context import ActionContext, Handler

__all__ = ["ActionContext", "Handler"]
