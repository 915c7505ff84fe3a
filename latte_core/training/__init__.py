"""Training: from a config to trained weights, in one process or in many."""
