"""What each service takes, idle, at a steady rate, and at the peak: what the charts request follows from it."""
