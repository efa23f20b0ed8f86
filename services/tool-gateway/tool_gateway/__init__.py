"""Calls the tools of MCP servers, under policy, and is the only service that holds their credentials."""
