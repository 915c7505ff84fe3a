"""Tiny models, malformed-file builders and other helpers shared by tests."""
