"""Weights into models, strictly."""
