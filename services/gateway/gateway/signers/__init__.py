"""The keys with which people sign their votes."""
