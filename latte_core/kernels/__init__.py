"""Triton kernels that move fewer bytes than torch's own, and the choice between the two."""
