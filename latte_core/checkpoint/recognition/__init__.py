"""Which model a file holds, and in which sizes."""
