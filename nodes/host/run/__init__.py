"""What happens in a run of a sampler."""
