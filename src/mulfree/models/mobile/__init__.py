"""Options, layers, blocks and network shared by the mobile families."""
