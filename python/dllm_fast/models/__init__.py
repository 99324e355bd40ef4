"""Models with a forward of their own."""
