"""HTTP API, server-sent events and console."""
