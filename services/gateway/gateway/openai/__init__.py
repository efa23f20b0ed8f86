"""The OpenAI-compatible API: existing clients use a fleet by its base URL, `/openai/v1`."""
