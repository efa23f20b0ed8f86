"""What governed actions do: one handler per action, found by name."""
