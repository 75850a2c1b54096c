"""``python -m transactional``: serve a store to other processes, and look into one by hand."""

from __future__ import annotations

import sys

from transactional.cli import main

if __name__ == "__main__":
    sys.exit(main())
