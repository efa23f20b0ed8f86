"""Temporal workflows and activities, the bus bridge and bus housekeeping."""
