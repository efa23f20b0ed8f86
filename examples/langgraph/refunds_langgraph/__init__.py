"""Refunds by LangGraph."""
