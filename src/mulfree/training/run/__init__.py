"""A run: configuration, loop, checkpoints and the files that it writes."""
