"""The `mulfree` command: `main` finds the command, one module per command does the work."""
