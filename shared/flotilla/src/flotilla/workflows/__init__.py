"""Durable workflows: what each is built on. Deterministic code only: it runs in the sandbox of Temporal."""
