"""Drivers of the switch contract."""
