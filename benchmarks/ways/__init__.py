"""What is measured: the ways to do one thing, of diffusers, of the authors and of ours."""
