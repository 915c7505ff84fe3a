"""Nodes for latents in and frames out."""
