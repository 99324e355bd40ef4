"""Models in memory of the classes of transformers, and what people put around them: described, probed, run."""
