"""Writes the cited answer with the language model."""
