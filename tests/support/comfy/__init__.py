"""ComfyUI for tests: a real one on the CPU, and the little of it that some tests call."""
