"""A person within the tenant, against a session that was not shared with them: to them it is not there."""
