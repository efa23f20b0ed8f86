"""Hours of steady load with a fault each minute: `python -m tests.ha.soak --seconds 7200`, which is `make soak`."""
