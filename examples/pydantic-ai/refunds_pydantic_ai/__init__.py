"""Refunds by pydantic-ai."""
