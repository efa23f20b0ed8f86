"""Refunds by openai-agents."""
