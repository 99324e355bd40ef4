"""Published sampling loops, one file a publication."""
