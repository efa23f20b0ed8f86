"""The `flotilla` command: a client of the gateway's HTTP API, and the local stack."""
