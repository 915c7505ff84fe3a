"""Eight-bit layers, products accumulated in float16, and what they are called."""
