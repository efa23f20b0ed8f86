"""Orders: placed in one transaction, a saga each; and what operators do about parked compensations."""
