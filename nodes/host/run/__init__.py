"""What happens in a run of a sampler, and what is put around its model calls."""
