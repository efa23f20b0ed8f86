"""A2A 1.0: what the fleet answers is an agent with a card, a run is a task, a session a context."""
