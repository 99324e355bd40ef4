"""Torch modules of others: changed for as long as somebody needs it, and put back."""
