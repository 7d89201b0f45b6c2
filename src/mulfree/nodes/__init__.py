"""The vocabulary of integer networks: one folder per node."""
