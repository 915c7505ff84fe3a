"""Nodes that make runs faster, or smaller in memory."""
