"""The starter models: the clips they learn from, their training, and what they score."""
