"""Following runs: what comes from Redis while it lives, what comes from the log in any case."""
