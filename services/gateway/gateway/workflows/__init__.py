"""Workflows that installed packages bring: which there are, and what they take."""
