"""The console in a browser: how soon a long session is there, and how smoothly it scrolls."""
