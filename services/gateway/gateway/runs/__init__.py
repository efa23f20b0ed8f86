"""Runs: started in one transaction, watched until they end."""
