"""Latte, a latent diffusion transformer for video (arXiv 2401.03048), without any host."""

from __future__ import annotations

__version__ = "0.1.0"
