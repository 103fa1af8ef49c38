"""Weights from outside: key tables of the official state dicts."""
