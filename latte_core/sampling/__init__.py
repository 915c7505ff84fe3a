"""Noise, schedulers and the sampling loop."""
