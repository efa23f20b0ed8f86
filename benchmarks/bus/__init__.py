"""The bus against a bare redis-py loop and a plain FastStream subscriber."""
