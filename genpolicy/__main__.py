"""``python -m genpolicy`` is the same as ``genpolicy``."""

from __future__ import annotations

import sys

from genpolicy.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
