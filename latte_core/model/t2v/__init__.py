"""LatteT2V, the text-to-video transformer."""
