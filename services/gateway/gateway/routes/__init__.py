"""The HTTP API, a module for each kind of thing. Every route says who may call it."""
