"""What the two transformers are made of, and the classes that they know by name."""
