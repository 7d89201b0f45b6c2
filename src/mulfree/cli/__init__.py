"""The `mulfree` command: `main` finds the verb, one module per verb does the work."""
