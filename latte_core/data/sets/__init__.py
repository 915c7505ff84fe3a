"""Prepared training data on disk: latents and text features in sharded safetensors files."""
