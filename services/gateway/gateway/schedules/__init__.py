"""Schedules: rows that say what is wanted; Temporal is brought to it at once, or by the worker's leader."""
