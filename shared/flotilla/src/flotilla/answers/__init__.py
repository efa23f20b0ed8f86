"""Answers: what a follow-up asks, whether the sources say what the sentences do, and how sure that makes."""
