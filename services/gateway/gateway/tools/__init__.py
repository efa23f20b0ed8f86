"""Tools of MCP servers: what is offered, and what the tenant allows."""
