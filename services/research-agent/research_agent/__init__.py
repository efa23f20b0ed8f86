"""Retrieves passages for a query from the knowledge base."""
