"""Fused kernels beside torch's operators."""
