"""Training runs, which go on in processes of their own."""
