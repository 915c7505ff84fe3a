"""T5 inside ComfyUI."""
