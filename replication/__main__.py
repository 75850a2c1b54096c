"""`python -m replication`: what it does is explained in `replication.cli`."""

from __future__ import annotations

import sys

from replication.cli import main

if __name__ == "__main__":
    sys.exit(main())
