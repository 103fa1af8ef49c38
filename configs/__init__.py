"""Experiment pages: each module has `get_config(variant)`."""
