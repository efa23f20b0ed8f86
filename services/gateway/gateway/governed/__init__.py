"""Governed actions: submitted in one transaction, decided through an Update that is recorded first."""
