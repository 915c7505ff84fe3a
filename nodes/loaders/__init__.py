"""Nodes that open models, encoders, VAEs and LoRAs."""
