"""Database, Temporal and gateway in hostile hands: without the signatures that policy asks for, nothing is executed.

The test plays all three: it sends the workflow any Update, calls the executor with any arguments, and writes any row
and any event. What it does not have are the people's private keys and the worker's own file of roots.
"""
