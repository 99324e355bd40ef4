"""Speed benches, each a command: see `bench/README.md`."""
