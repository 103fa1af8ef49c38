"""Backbones that take a temporal plug, and the registry of named models."""
