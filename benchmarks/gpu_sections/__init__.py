"""The sections of `gpu.py`, and what they measure with."""
