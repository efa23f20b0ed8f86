"""How well a fleet finds and answers: questions with what is expected of them, measured and compared."""
