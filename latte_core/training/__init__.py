"""Training of the starter model."""
