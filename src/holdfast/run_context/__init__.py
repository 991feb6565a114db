"""The contexts of runs: what a run knows, how it changes, and how it is kept and restored."""
