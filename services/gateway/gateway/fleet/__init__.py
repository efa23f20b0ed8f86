"""How the fleet is doing: now, and over the last hour."""
