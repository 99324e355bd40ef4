"""The transformers that run here, and their layers."""
