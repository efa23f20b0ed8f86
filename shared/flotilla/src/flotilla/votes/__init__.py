"""Signed votes: statements, signatures, and the keys that count. Needs nothing but the votes and a file of roots."""
