"""From one file or model to another."""
