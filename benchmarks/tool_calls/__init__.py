"""What governance adds to a call of an MCP tool."""
