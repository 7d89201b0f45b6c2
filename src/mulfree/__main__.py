"""`python -m mulfree` is the command `mulfree`."""

from __future__ import annotations

import sys

from mulfree.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
