"""Files of a model folder, read and checked; nothing in them is run."""
