"""Latte's VAEs inside ComfyUI."""
