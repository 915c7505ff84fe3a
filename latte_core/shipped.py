"""The models that ship with the package, and the kinds of VAE, by the words that name them."""

from __future__ import annotations

from pathlib import Path

STARTER = "starter"
STARTER_FOLDER = Path(__file__).parent / "assets" / "starter"
CLASS_STARTER = "class-starter"
CLASS_STARTER_FOLDER = Path(__file__).parent / "assets" / "class_starter"
VAE_FOLDERS = {"temporal": "vae_temporal_decoder", "image": "vae"}
