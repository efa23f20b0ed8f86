"""Tenants, as the operators of the fleet see and govern them."""
