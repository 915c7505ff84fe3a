"""Nodes that say what a video is to show."""
