"""What the erasure of one person takes in a large log."""
