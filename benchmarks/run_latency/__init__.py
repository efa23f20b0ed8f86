"""What delegation and a whole run cost, against a bare workflow on the same Temporal server."""
