"""`python -m convoca`: what it does is explained in `convoca.cli`."""

from __future__ import annotations

import sys

from convoca.cli import main

if __name__ == "__main__":
    sys.exit(main())
