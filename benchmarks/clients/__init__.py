"""What the OpenAI-compatible API costs over the native one."""
