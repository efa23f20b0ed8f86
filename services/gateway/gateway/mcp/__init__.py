"""The fleet as an MCP server: governed tools, agents, workflows and what may be read, for any MCP client."""
