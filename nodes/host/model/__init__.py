"""Latte's transformers as native ComfyUI models."""
