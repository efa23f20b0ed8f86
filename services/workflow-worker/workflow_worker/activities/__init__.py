"""What workflows ask of the world: databases, streams, people. Each activity is safe to run twice."""
