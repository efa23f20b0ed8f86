"""Who calls: API keys and OpenID Connect tokens, and what each role may do."""
