"""Nodes that sample, or give stock samplers what Latte needs."""
