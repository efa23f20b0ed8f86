"""Deterministic code only: no clients, no clocks, no environment. Runs in Temporal's sandbox."""
