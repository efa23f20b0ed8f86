"""What a fleet stores, what that costs at any size, and how many cells a number of tenants takes."""
