"""From a folder or a hub id to a model that runs: `load`, and `convert` for pickled weights."""
