"""Prompt cleaning, tokens and the T5 encoder."""
