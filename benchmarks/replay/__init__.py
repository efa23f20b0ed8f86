"""Replay against the naive scan of the topic, and the rate of the projection."""
