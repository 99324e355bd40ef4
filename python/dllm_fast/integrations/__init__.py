"""The library as other libraries call it."""
