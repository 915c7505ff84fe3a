"""Tiny random models, and the files people keep such models in."""
