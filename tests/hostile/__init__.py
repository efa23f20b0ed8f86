"""Attacks by those who are inside: each is refused, and shows."""
