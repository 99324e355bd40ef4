"""Between a model and the sampler: requests in, logits or predictions out."""
