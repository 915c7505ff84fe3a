"""Changes to the weights of a model that is there: adapters, fused products, other sizes."""
