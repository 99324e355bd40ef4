"""Prompts and answers as text: the only folder that knows strings."""
