"""Nodes that start a training, watch it and end it."""
